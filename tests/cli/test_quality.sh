# bench/quality.sh: its tables and records hold what compress, info and ppl say; code_text.sh gives the bytes that were measured.
. "$(dirname "$0")/lib.sh"
script=$CLLM_SOURCE/bench/quality.sh
if [ -n "${CLLM_SANITIZE:-}" ]; then
    echo "skipped: sanitizers see nothing of a script; what it runs has tests of its own"
    exit 77
fi

# quality CODE ARGUMENTS...: runs the script; standard output in $work/out, errors in $work/err.
quality() {
    wanted=$1
    shift
    sh "$script" --codecllm "$codecllm" --device cpu "$@" >"$work/out" 2>"$work/err" </dev/null
    got=$?
    [ $got -eq "$wanted" ] || { complain "quality.sh $*: exit code $got, not $wanted: $(tail -n 20 "$work/err")"; return 1; }
}

head -c 4000 "$tiny/heldout.txt" >"$work/prose.txt"
head -c 4000 "$CLLM_SOURCE/bench/quality.sh" >"$work/code.txt"
quality 0 -b 3.25 --variant 'whole=,--uniform --profile small' --variant "copy=$codecllm" --line 'int8=,--mode int8' --windows 1 --jobs 2 --batch 2 \
    --snr --keep "$work/models" --records "$work/records.json" "$tiny" "$work/prose.txt" "$work/code.txt"
prints '^tiny on prose.txt, 1 windows of 512 tokens, second half scored \(256 tokens\), run on cpu'
prints '^tiny on code.txt, 1 windows'
prints '^\| 3.25 \| whole \| 3\.2[0-9]+ \| [0-9]+ \| [0-9.]+ \| 0\.[0-9]+ \| [0-9.]+ % \| [0-9.]+ \| - \|$'
prints '^\| 3.25 \| copy \| 3\.2[0-9]+ \| [0-9]+ \| [0-9.]+ \| 0\.[0-9]+ \| [0-9.]+ % \| [0-9.]+ \| [0-9.]+ \|$'
prints '^\| - \| int8 \| 7\.[0-9]+ \|'
cp "$work/records.json" "$work/out"
json 'length == 6 and ([.[] | .variant] == ["whole", "copy", "int8", "whole", "copy", "int8"]) and ([.[] | .text] | unique == ["code.txt", "prose.txt"])'
json '.[0].asked == 3.25 and .[2].asked == null and .[0].kl > 10 * .[2].kl and .[2].kl > 0 and all(.[]; .snr_db > 10 and .tokens == 256)'
json '(.[1].kl_of_first / (.[1].kl * pow(4; .[1].bits - .[0].bits) / .[0].kl) - 1 | fabs) < 1e-9 and .[0].kl_of_first == null'

# The same by hand, from what was kept; figures are added to those that a file holds.
kl=$(jq '.[3].kl' "$work/records.json")
bytes=$(jq '.[3].bytes' "$work/records.json")
expect 0 ppl "$work/models/whole-3.25" -f "$work/code.txt" --kl "$tiny" --score second-half --max-windows 1 --device cpu --json
json "(.kl_mean / $kl - 1 | fabs) < 1e-9"
expect 0 info "$work/models/whole-3.25" --json && json ".bytes == $bytes"
quality 0 --line 'exact=,--mode lossless' -b '' --windows 99 --records "$work/records.json" "$tiny" "$work/prose.txt"
prints '^\| - \| exact \| 10\.[0-9]+ \| [0-9]+ \| [0-9.]+ \| 0\.000000 \| 100\.00 % \|$'
prints 'The text has no more than 2 of the 99 windows\.$'
cp "$work/records.json" "$work/out"
json 'length == 7 and .[6].variant == "exact" and .[0].variant == "whole"'

# What is wrong is said before the work.
echo '{}' >"$work/object.json"
quality 1 --records "$work/object.json" "$tiny" "$work/prose.txt" && says 'is not a JSON array'
quality 2 "$tiny" && says 'a model directory and a text'
quality 2 "$tiny" "$work/none.txt" && says 'cannot read the text'
quality 2 -b 4,5 "$tiny" "$work/prose.txt" && says "'4,5' in --bits is not a number"
quality 2 --variant small "$tiny" "$work/prose.txt" && says 'LABEL='
quality 2 --variant 'a/b=' "$tiny" "$work/prose.txt" && says 'a label has letters'
quality 2 --variant a= --variant a=,--uniform "$tiny" "$work/prose.txt" && says 'two outputs called a-3.25'
quality 2 --window 5 "$tiny" "$work/prose.txt" && says 'no option --window'
quality 1 --variant "a=$work/none" "$tiny" "$work/prose.txt" && says 'there is no program'
quality 1 -b 4 --variant a=,--no-such-option "$tiny" "$work/prose.txt" && says 'compressing a at 4 failed'

# Where the history is at hand, the text of source code is the one of all figures.
if git -C "$CLLM_SOURCE" cat-file -e 8b094468ec7c905afb40be9f81f03d135ef06c37 2>/dev/null; then
    sh "$CLLM_SOURCE/bench/code_text.sh" >"$work/text" || complain "code_text.sh fails"
    [ "$(wc -c <"$work/text")" -eq 52269 ] || complain "the text of source code has $(wc -c <"$work/text") bytes"
fi
finish
