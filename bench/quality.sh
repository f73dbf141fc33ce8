#!/bin/sh
# Quality against size: Markdown tables of one model, at several bit rates, coded in several ways, on several texts. --help tells how.
set -eu
set -f # options of variants are words, not patterns of file names
export LC_ALL=C

usage() {
    cat <<'HELP'
Usage: bench/quality.sh [options] MODEL_DIR TEXT...

Compresses MODEL_DIR at every bit rate in every variant, compares each result with MODEL_DIR on every TEXT, and prints one Markdown table
per text: bits per weight (every byte of every tensor counts), perplexity, mean KL divergence from MODEL_DIR in nats, and how often both
think the same token likeliest.

A variant is LABEL=[PROGRAM][,OPTIONS]: the codecllm that compresses (none: that of --codecllm) and options for its `compress`, split at
blanks. From the second variant on a column tells the KL as a quotient of the first variant's at the same bytes: where two outputs differ
a little in size, the KL is first brought to the size of the first, with a factor of 4 per bit (which is what a step half as wide gives).

Options:
  -b, --bits LIST           bit rates, separated by blanks (default "8.51 6.97 6.10 5.38 5.07 4.82 4.60 4.48 4.14 3.87 3.71 3.25")
  --variant VARIANT         may be given several times (default "small=,--profile small")
  --line VARIANT            the same, but with no bit rate: one line of the table, e.g. "int8=,--mode int8"
  --windows N               score the first N windows of 512 tokens (default 0: all)
  --score all|second-half   which tokens of a window are scored (default second-half)
  --device DEVICE           where the models are run: auto (default), cpu, cuda, cuda:N
  --snr                     one more column: signal-to-noise ratio of the weights, dB
  --codecllm PROGRAM        what runs the models (default build/codecllm of this checkout); it must read what every variant writes
  --records FILE            add every figure to FILE, a JSON array, and keep those that stand there
  --keep DIR                keep the compressed models there (default: they are deleted)
  -j, --jobs N              outputs that are compressed at the same time (default 1); they share the threads
  -t, --threads N           threads in all (default: one per core)
  --batch N                 models that are in memory at the same time beside MODEL_DIR (default 4, at most 32)

Examples:
  bench/quality.sh -b "4.5 3.5" models/tiny models/tiny/heldout.txt
  bench/code_text.sh >code.txt
  bench/quality.sh -b "8.5 4.5 3" --variant "before=../old/build/codecllm,--profile small" --variant "now=,--profile small" \
      --line "int8=,--mode int8" --windows 12 --device cuda -j 4 --records figures.json MODEL_DIR prose.txt code.txt
HELP
}
wrong() {
    echo "quality.sh: $1 (--help tells the usage)" >&2
    exit 2
}
fail() {
    echo "quality.sh: $1" >&2
    exit 1
}

bits='8.51 6.97 6.10 5.38 5.07 4.82 4.60 4.48 4.14 3.87 3.71 3.25'
variants='' lines='' windows=0 score=second-half device=auto snr=0 records='' keep='' jobs=1 threads=0 batch=4
program=$(dirname "$0")/../build/codecllm
newline='
'
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        usage
        exit 0
        ;;
    --snr)
        snr=1
        shift
        continue
        ;;
    --)
        shift
        break
        ;;
    -*) [ $# -ge 2 ] || wrong "$1 wants a value, or is no option" ;;
    *) break ;;
    esac
    case $1 in
    -b | --bits) bits=$2 ;;
    --variant) variants=$variants$2$newline ;;
    --line) lines=$lines$2$newline ;;
    --windows) windows=$2 ;;
    --score) score=$2 ;;
    --device) device=$2 ;;
    --codecllm) program=$2 ;;
    --records) records=$2 ;;
    --keep) keep=$2 ;;
    -j | --jobs) jobs=$2 ;;
    -t | --threads) threads=$2 ;;
    --batch) batch=$2 ;;
    *) wrong "no option $1" ;;
    esac
    shift 2
done
[ $# -ge 2 ] || wrong "it wants a model directory and a text"
model=$1
shift
for text; do [ -r "$text" ] || wrong "cannot read the text $text"; done
for number in "$windows" "$jobs" "$threads" "$batch"; do
    case $number in '' | *[!0-9]*) wrong "'$number' is not a whole number" ;; esac
done
[ "$jobs" -ge 1 ] || wrong "--jobs is at least 1"
if [ "$batch" -lt 1 ] || [ "$batch" -gt 32 ]; then wrong "--batch is 1 to 32"; fi
for b in $bits; do
    case $b in *[!0-9.]*) wrong "'$b' in --bits is not a number" ;; esac
done
[ -n "$variants$lines" ] || variants="small=,--profile small$newline"
command -v jq >/dev/null || fail "it needs jq"
[ -x "$program" ] || fail "there is no program $program; build it, or name one with --codecllm"
# Records are added to a file; one that holds something else is found before the work, not after it.
if [ -n "$records" ] && [ -s "$records" ]; then
    jq -e 'type == "array"' "$records" >/dev/null 2>&1 || fail "$records is not a JSON array"
fi
[ "$threads" -gt 0 ] || threads=$(nproc)
each=$((threads / jobs))
[ $each -ge 1 ] || each=1

work=$(mktemp -d)
running=''
# shellcheck disable=SC2086 # one word per process
stop() {
    [ -z "$running" ] || kill $running 2>/dev/null || true
    rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT TERM
keep=${keep:-$work/models}
mkdir -p "$keep"

# plan NAMES RATES: one line per output, its fields parted by a byte that no option holds: rate ("-": none), label, program, options, directory.
part=$(printf '\037')
plan() {
    printf '%s' "$1" | while IFS= read -r variant; do
        label=${variant%%=*}
        [ "$label" != "$variant" ] || wrong "a variant is LABEL=[PROGRAM][,OPTIONS], not '$variant'"
        case $label in '' | *[!A-Za-z0-9._-]*) wrong "a label has letters, digits, '.', '_' and '-' only, not '$label'" ;; esac
        rest=${variant#*=}
        compressor=${rest%%,*} options=''
        case $rest in *,*) options=${rest#*,} ;; esac
        [ -n "$compressor" ] || compressor=$program
        [ -x "$compressor" ] || fail "there is no program $compressor (variant $label)"
        printf '%s%s%s%s%s\n' "$label" "$part" "$compressor" "$part" "$options"
    done >"$work/variants"
    for rate in $2; do
        while IFS=$part read -r label compressor options; do
            suffix=
            [ "$rate" = - ] || suffix=-$rate
            printf '%s\n' "$rate$part$label$part$compressor$part$options$part$keep/$label$suffix"
        done <"$work/variants"
    done
}
plan "$variants" "$bits" >"$work/plan"
first=$(head -n 1 "$work/variants" | cut -d "$part" -f 1)
several=$(wc -l <"$work/variants")
plan "$lines" - >>"$work/plan"
twice=$(cut -d "$part" -f 5 "$work/plan" | sort | uniq -d | head -n 1)
[ -z "$twice" ] || wrong "there are two outputs called ${twice##*/}: labels and bit rates differ"
[ -s "$work/plan" ] || wrong "there are neither variants with bit rates nor lines"

# compress I RATE LABEL PROGRAM OPTIONS DIR: leaves what is known of output I in $work/output-I.json.
compress() {
    rate_options=''
    [ "$2" = - ] || rate_options="--mode rd --bpw $2"
    # shellcheck disable=SC2086 # options are words
    "$4" compress "$model" -o "$6" $rate_options --force -t $each --json $5 >"$work/compress-$1" 2>"$work/errors-$1" || {
        cat "$work/errors-$1" >&2
        fail "compressing $3 at $2 failed"
    }
    if [ $snr = 1 ]; then
        "$program" info "$6" --compare "$model" --json >"$work/info-$1"
    else
        "$program" info "$6" --json >"$work/info-$1"
    fi
    jq -n --arg rate "$2" --arg variant "$3" --arg program "$4" --arg options "$5" --arg dir "$6" --slurpfile c "$work/compress-$1" \
        --slurpfile f "$work/info-$1" '{asked: (if $rate == "-" then null else $rate | tonumber end), variant: $variant, program: $program,
            options: $options, bits: $f[0].bits_per_weight, bytes: $f[0].bytes, snr_db: $f[0].snr_db, compress_seconds: $c[0].seconds,
            dir: $dir}' >"$work/output-$1.json"
    echo "compressed: $3 at $2" >&2
}
finish_running() {
    failed=0
    for process in $running; do wait "$process" || failed=1; done
    running=''
    [ $failed = 0 ] || exit 1
}
count=0 started=0
while IFS=$part read -r rate label compressor options dir; do
    count=$((count + 1)) started=$((started + 1))
    compress $count "$rate" "$label" "$compressor" "$options" "$dir" </dev/null &
    running="$running $!"
    [ $started -lt "$jobs" ] || { finish_running; started=0; }
done <"$work/plan"
finish_running

# score TEXT FIRST LAST: adds the figures of outputs FIRST to LAST to $work/scores, in their order.
score() {
    text=$1 at=$2 last=$3
    set --
    while [ "$at" -le "$last" ]; do
        set -- "$@" "$(jq -r .dir "$work/output-$at.json")"
        at=$((at + 1))
    done
    "$program" ppl "$@" -f "$text" --kl "$model" --score "$score" --window 512 --max-windows "$windows" --device "$device" -t "$threads" --json \
        >"$work/ppl.json"
    jq 'if type == "array" then .[] else . end' "$work/ppl.json" >>"$work/scores"
}
model_name=$(basename "$(cd "$model" && pwd)")
per_window=256
[ "$score" = second-half ] || per_window=511
number=0
for text; do
    number=$((number + 1))
    : >"$work/scores"
    at=1
    while [ $at -le $count ]; do
        last=$((at + batch - 1))
        [ $last -le $count ] || last=$count
        echo "score: $(basename "$text"), models $at to $last of $count" >&2
        score "$text" $at $last
        at=$((last + 1))
    done
    outputs=''
    at=1
    while [ $at -le $count ]; do
        outputs="$outputs $work/output-$at.json"
        at=$((at + 1))
    done
    # shellcheck disable=SC2086 # one word per file; the directory comes from mktemp
    cat $outputs | jq -s --slurpfile s "$work/scores" --arg model "$model_name" --arg text "$(basename "$text")" --arg first "$first" \
        --arg sha "$(sha256sum "$text" | cut -d ' ' -f 1)" --argjson per_window $per_window '
        [range(length) as $i | .[$i] as $o | $s[$i] as $k |
            if $o.dir != $k.dir then error("figures of another model") else . end |
            {model: $model, text: $text, text_sha256: $sha} + ($o | del(.dir)) + {ppl: $k.ppl, kl: $k.kl_mean, top1: $k.top1_agreement,
             original_ppl: $k.reference_ppl, tokens: $k.tokens, windows: ($k.tokens / $per_window), score: $k.score, device: $k.device}] |
        . as $all | map(. as $r | ([$all[] | select(.asked != null and .asked == $r.asked and .variant == $first)][0]) as $base |
            .kl_of_first = (if $base == null or .variant == $first or $base.kl <= 0 then null
                            else .kl * pow(4; .bits - $base.bits) / $base.kl end))' >"$work/records-$number.json"
    cat "$work/records-$number.json" >>"$work/new"

    jq -r --argjson windows "$windows" '.[0] |
        "\(.model) on \(.text), \(.windows) windows of 512 tokens, \(.score | if . == "all" then "all tokens" else "second half" end) " +
        "scored (\(.tokens) tokens), run on \(.device). Uncompressed perplexity \(.original_ppl * 1000 | round / 1000)." +
        if $windows > .windows then " The text has no more than \(.windows) of the \($windows) windows." else "" end,
        ""' "$work/records-$number.json"
    jq -r '.[] | [.asked, .variant, .bits, .bytes, .ppl, .kl, 100 * .top1, .snr_db, .kl_of_first] | map(. // "-") | @tsv' \
        "$work/records-$number.json" | awk -F '\t' -v snr=$snr -v several="$several" -v first="$first" '
        function put(format, value) { printf " " (value == "-" ? "-" : sprintf(format, value)) " |" }
        NR == 1 {
            head = "| asked bits/weight | variant | measured | bytes | perplexity | mean KL, nats | same likeliest token |"
            rule = "|---|---|---|---|---|---|---|"
            if (snr) { head = head " weight SNR, dB |"; rule = rule "---|" }
            if (several > 1) { head = head " KL against " first " at the same bytes |"; rule = rule "---|" }
            print head; print rule
        }
        {
            printf "|"
            put("%s", $1); put("%s", $2); put("%.3f", $3); put("%d", $4); put("%.3f", $5); put("%.6f", $6); put("%.2f %%%%", $7)
            if (snr) put("%.2f", $8)
            if (several > 1) put("%.3f", $9)
            print ""
        }'
    echo
done
if [ -n "$records" ]; then
    [ ! -s "$records" ] || cat "$records" >"$work/old"
    touch "$work/old"
    cat "$work/old" "$work/new" | jq -s add >"$work/all.json"
    cp "$work/all.json" "$records"
fi
