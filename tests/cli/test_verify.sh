# A changed byte anywhere in a compressed directory: verify, decompress and run --verify name what differs and exit with 3; nothing is left at the
# output. Without a manifest: a warning. A tensor too many or too few, a broken manifest.
. "$(dirname "$0")/lib.sh"
flips=24
[ -n "${CLLM_SANITIZE:-}" ] && flips=4

expect 0 compress "$tiny" -o "$work/good" --mode lossless
expect 0 decompress "$work/good" -o "$work/reference"
expect 0 run "$work/good" --verify -p "Once" -n 1 --temp 0
[ ! -s "$work/err" ] || grep -q warning "$work/err" && complain "a warning for an untouched directory"

# refused PATTERN: all three find what was changed in $work/bad, and say it.
refused() {
    expect 3 decompress "$work/bad" -o "$work/never" && says "$1"
    [ ! -e "$work/never" ] && [ ! -e "$work/never.partial" ] || complain "decompress left something"
    expect 3 run "$work/bad" --verify -p "Once" -n 1 && says "$1"
    expect 3 verify "$work/bad" && says "$1"
}

fresh() {
    rm -rf "$work/bad"
    cp -r "$work/good" "$work/bad"
    chmod -R u+w "$work/bad"
}

# flip FILE POSITION: one bit of that byte.
flip() {
    byte=$(od -An -tu1 -j "$2" -N 1 "$1" | tr -d ' ')
    printf "\\$(printf '%03o' $((byte ^ 16)))" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}

# In every file, and spread over the weights: codes, tables, padding, plain tensors, the header.
for file in "$work"/good/*; do
    name=$(basename "$file")
    fresh
    flip "$work/bad/$name" $(($(wc -c <"$file") / 2))
    refused "$name|codecllm.json"
done
size=$(wc -c <"$work/good/model.safetensors")
i=0
while [ $i -lt $flips ]; do
    fresh
    flip "$work/bad/model.safetensors" $(((size - 1) * i / (flips - 1)))
    refused 'model.safetensors'
    i=$((i + 1))
done

# The tensor is named.
fresh
flip "$work/bad/model.safetensors" $((size - 1))
last=$(jq -r '.tensors | keys | map(select(endswith("_cllm") | not)) | last' "$work/good/codecllm.json")
refused "tensor $last"

# What only the header's hash can tell: another type of the same size, for a tensor whose bytes are untouched.
fresh
sed -i 's/"dtype":"BF16","shape":\[256\]/"dtype":"I16" ,"shape":[256]/' "$work/bad/model.safetensors"
cmp -s "$work/good/model.safetensors" "$work/bad/model.safetensors" && complain "the header was not changed"
refused 'header|weights, bytes'

# The manifest: cut off, of another model, of a newer format; none at all.
fresh
head -c 300 "$work/good/codecllm.json" >"$work/bad/codecllm.json"
refused 'codecllm.json'
expect 0 compress "$tiny" -o "$work/other" --mode int8
fresh
cp "$work/other/codecllm.json" "$work/bad/"
refused 'codecllm.json'
fresh
rm "$work/bad/tokenizer.json"
refused 'tokenizer.json is missing'
fresh
rm "$work/bad/codecllm.json"
expect 0 decompress "$work/bad" -o "$work/unchecked" && says 'warning: .*has no codecllm.json'
diff -r "$work/reference" "$work/unchecked" >/dev/null || complain "decompress without a manifest gives something else"
expect 0 run "$work/bad" --verify -p "Once" -n 1 && says 'warning: .*has no codecllm.json'

# A file that is not listed goes along with a warning, as it does no harm; verify and run --verify want the directory as it was written.
fresh
echo note >"$work/bad/NOTES"
expect 0 decompress "$work/bad" -o "$work/noted" && says 'warning: .*NOTES is not listed'
expect 3 run "$work/bad" --verify -p "Once" -n 1 && says 'NOTES is not listed'
finish
