# compress, info, verify, decompress in every mode.
. "$(dirname "$0")/lib.sh"

for mode in int8 rd lossless; do
    expect 0 compress "$tiny" -o "$work/$mode" --mode $mode --json
    json ".mode == \"$mode\" and .bytes > 0 and .bits_per_weight < 12 and .source_bytes > .bytes and .compressed_tensors > 0"
    expect 0 info "$work/$mode" --json
    json ".mode == \"$mode\" and .architecture == \"llama\" and (.bits_per_weight * .weights / 8 - .bytes | fabs) < 1"
    expect 0 verify "$work/$mode" && prints 'OK'
    expect 0 verify "$work/$mode" --json && json '.ok and .files > 3'
    for file in tokenizer.json tokenizer_config.json generation_config.json; do
        cmp "$tiny/$file" "$work/$mode/$file" || complain "$mode changed $file"
    done
done

# The asked bits are met, the files say so themselves, threads do not matter.
rates="3.25 4.5 6.1"
[ -n "${CLLM_SANITIZE:-}" ] && rates=6.1 # slow; what matters there is that nothing is touched wrongly
for bits in $rates; do
    expect 0 compress "$tiny" -o "$work/bits" --bpw $bits --force -t 2
    expect 0 info "$work/bits" --json && json "(.bits_per_weight / $bits - 1 | fabs) <= 0.01"
    bytes=$(jq .bytes "$work/out")
    size=$(cat "$work"/bits/*.safetensors | wc -c)
    [ "$size" -ge "$bytes" ] && [ $((size - bytes)) -lt 65536 ] || complain "info says $bytes bytes, the files have $size"
done
expect 0 compress "$tiny" -o "$work/one" --bpw 6.1 -t 1
diff -r "$work/bits" "$work/one" >/dev/null || complain "one thread gives other bytes than two"

# Shards, and one of the two profiles.
expect 0 compress "$tiny" -o "$work/shards" --bpw 4 --shard-size 1MB --profile fast
[ "$(ls "$work"/shards/*.safetensors | wc -l)" -ge 3 ] || complain "no shards"
expect 0 verify "$work/shards"

# lossless: every weight, and the directory again.
expect 0 info "$work/lossless" --compare "$tiny" && prints 'weight SNR +inf'
expect 0 info "$work/lossless" --compare "$tiny" --json && json '.snr_db == null'
expect 0 decompress "$work/lossless" -o "$work/again" && prints 'tensors'
expect 0 info "$work/again" --compare "$tiny" --tensors --json
json '.mode == "raw" and (.tensor_list | length) == .tensors and all(.tensor_list[]; .snr_db == null and .compressed == false)'
cmp "$tiny/config.json" "$work/again/config.json" || jq -S . "$tiny/config.json" | cmp - "$work/again/config.json" ||
    jq -e --slurpfile a "$tiny/config.json" '. == $a[0]' "$work/again/config.json" >/dev/null || complain "config.json is another one"
expect 7 decompress "$work/lossless" -o "$work/again"
expect 0 decompress "$work/rd" -o "$work/again" --force --json && json '.bytes > 10000000'
expect 0 info "$work/rd" --compare "$tiny" --tensors && prints 'SNR=2[0-9]\.[0-9]+ dB typical=[12][0-9]\.' && prints 'N=[234]'
expect 0 info "$work/rd" --compare "$tiny" --json && json '.snr_db > 20 and .snr_db < 40'

# verify notices a changed byte in every file; also a missing and a foreign one.
for file in "$work"/rd/*; do
    name=$(basename "$file")
    size=$(wc -c <"$file")
    cp "$file" "$work/saved"
    chmod u+w "$file"
    at=$((size * 2 / 3))
    byte=$(od -An -tu1 -j $at -N 1 "$file" | tr -d ' ')
    printf "\\$(printf '%03o' $(((byte + 1) % 256)))" | dd of="$file" bs=1 seek=$at conv=notrunc 2>/dev/null
    "$codecllm" verify "$work/rd" >"$work/out" 2>"$work/err" && complain "verify does not notice a changed byte in $name"
    says "$name|codecllm.json"
    cp "$work/saved" "$file"
done
expect 0 verify "$work/rd"
mv "$work/rd/tokenizer.json" "$work/saved"
"$codecllm" verify "$work/rd" >/dev/null 2>"$work/err" && complain "verify does not notice a missing file"
mv "$work/saved" "$work/rd/tokenizer.json"
expect 0 verify "$work/rd"
"$codecllm" verify "$tiny" >/dev/null 2>"$work/err" && complain "verify accepts a directory without a manifest"
says 'codecllm.json|manifest|not compressed'
finish
