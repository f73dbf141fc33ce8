# Perplexity by the golden rule, KL divergence, several directories.
. "$(dirname "$0")/lib.sh"
text=$tiny/heldout.txt
windows=${CLLM_SANITIZE:+--max-windows 2}

expect 0 compress "$tiny" -o "$work/exact" --mode lossless
expect 0 compress "$tiny" -o "$work/rd" --bpw 4.5
# shellcheck disable=SC2086 # nothing or two words
if [ -z "$windows" ]; then
    golden=$(jq .heldout.ppl "$tiny/golden.json")
    tokens=$(jq .heldout.tokens "$tiny/golden.json")
    expect 0 ppl --device cpu "$work/exact" -f "$text" --json && json "(.ppl / $golden - 1 | fabs) < 0.0005 and .tokens == $tokens"
fi
expect 0 ppl --device cpu "$work/exact" -f "$text" --max-windows 2 --kl "$tiny" --json
json '.tokens == 1022 and .kl_mean > -1e-9 and .kl_mean < 1e-4 and .top1_agreement > 0.99 and .window == 512'
expect 0 ppl --device cpu "$work/rd" -f "$text" --max-windows 2 --kl "$tiny" --json --score second-half
json '.tokens == 512 and .kl_mean > 0.001 and .kl_mean < 0.5 and .top1_agreement > 0.7 and .top1_agreement < 1 and .score == "second-half" and .prompt_type == "f16"'
expect 0 ppl --device cpu "$work/rd" "$work/exact" "$tiny" -f "$text" --window 64 --max-windows 3 --kl "$tiny" --json
json 'length == 3 and all(.[]; .tokens == 189) and .[2].kl_mean < 1e-9 and .[2].top1_agreement == 1 and .[0].kl_mean > .[1].kl_mean'
expect 0 ppl --device cpu "$work/rd" -f "$text" --max-windows 1 --weights compressed && prints 'perplexity [0-9]+\.[0-9]+ \(511 tokens\)'
head -c 100 "$text" >"$work/short"
expect 2 ppl "$tiny" -f "$work/short" && says 'fewer than one window'
expect 2 ppl "$tiny" -f "$text" --window 100000 && says 'more than the context'
finish
