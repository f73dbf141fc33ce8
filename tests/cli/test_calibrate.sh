# compress --calibrate: on itself, on a text; what info tells; what is refused.
. "$(dirname "$0")/lib.sh"

tokens=3000
[ -n "${CLLM_SANITIZE:-}" ] && tokens=70
expect 0 compress "$tiny" -o "$work/self" --bpw 3.5 --calibrate self --calibrate-tokens $tokens --seed 3 -t 2 && prints "calibrated on $tokens tokens that the model wrote itself, seed 3"
expect 0 info "$work/self" && prints "calibrated on +$tokens tokens .*seed 3"
expect 0 info "$work/self" --json
json "(.bits_per_weight / 3.5 - 1 | fabs) <= 0.01 and .calibration == {on: \"self\", tokens: $tokens, seed: 3}"
jq -e ".quantization_config.calibration == {on: \"self\", tokens: $tokens, seed: 3}" "$work/self/config.json" >"$work/out" || complain "config.json does not tell"
jq -e ".calibration == {on: \"self\", tokens: $tokens, seed: 3}" "$work/self/codecllm.json" >"$work/out" || complain "the manifest does not tell"
expect 0 verify "$work/self"
expect 0 info "$tiny" --json && json 'has("calibration") | not'
# an ordinary directory again
expect 0 decompress "$work/self" -o "$work/again"
jq -e '.quantization_config == null' "$work/again/config.json" >"$work/out" || complain "decompress leaves the calibration"

# On a text, from a file or standard input: the same bytes, whatever the threads.
head -c 2000 "$tiny/heldout.txt" >"$work/text"
expect 0 compress "$tiny" -o "$work/text-2" --bpw 3.5 --calibrate "$work/text" -t 2 && prints "calibrated on [0-9]+ tokens of a text"
hash=$(jq -r .calibration.xxh3 "$work/text-2/codecllm.json")
[ ${#hash} -eq 16 ] || complain "no hash of the text: $hash"
expect 0 info "$work/text-2" --json && json ".calibration.on == \"text\" and .calibration.xxh3 == \"$hash\" and .calibration.tokens > 300"
if [ -z "${CLLM_SANITIZE:-}" ]; then
    "$codecllm" compress "$tiny" -o "$work/text-1" --bpw 3.5 --calibrate - -t 1 <"$work/text" >"$work/out" 2>"$work/err" || complain "standard input: $(cat "$work/err")"
    diff -r "$work/text-1" "$work/text-2" >"$work/out" || complain "one thread gives other bytes than two"
    # weights give way to what they do to products: no reason to warn of what they have lost
    expect 0 compress "$tiny" -o "$work/two" --bpw 2 --calibrate self --calibrate-tokens 2900
    grep -q 'is lost' "$work/err" && complain "a warning of a sound calibration: $(cat "$work/err")"
    # less error than without data, on other text of the same kind
    tail -c 9000 "$tiny/heldout.txt" >"$work/other"
    expect 0 compress "$tiny" -o "$work/none" --bpw 3.5
    expect 0 ppl "$work/none" "$work/self" -f "$work/other" --kl "$tiny" --score second-half --json --device cpu
    json '.[1].kl_mean < 0.9 * .[0].kl_mean'
fi

expect 0 compress "$tiny" -o "$work/few" --bpw 3.5 --calibrate self --calibrate-tokens 40 && says '40 tokens are few for inputs of 704 numbers'
expect 2 compress "$tiny" -o "$work/x" --calibrate self --mode int8 && says 'belongs to --mode rd'
expect 2 compress "$tiny" -o "$work/x" --seed 1 && says 'belongs to --calibrate'
expect 2 compress "$tiny" -o "$work/x" --calibrate-tokens 5 && says 'belongs to --calibrate'
expect 2 compress "$tiny" -o "$work/x" --calibrate "$work/text" --seed 1 && says 'a text needs none'
expect 2 compress "$tiny" -o "$work/x" --calibrate self --seed -1 && says 'from 0 up'
expect 2 compress "$tiny" -o "$work/x" --calibrate self --calibrate-tokens 0
expect 4 compress "$tiny" -o "$work/x" --calibrate "$work/nowhere" && says 'nowhere'
: >"$work/empty"
expect 3 compress "$tiny" -o "$work/x" --calibrate "$work/empty" && says 'empty is empty'
cp -r "$tiny" "$work/mute" && rm "$work/mute/tokenizer.json"
expect 4 compress "$work/mute" -o "$work/x" --calibrate "$work/text" && says 'no tokenizer.json'
cp -r "$tiny" "$work/alien" && sed 's/"llama"/"gpt2"/; s/LlamaForCausalLM/GPT2LMHeadModel/' "$tiny/config.json" >"$work/alien/config.json"
expect 6 compress "$work/alien" -o "$work/x" --calibrate self && says 'calibrating needs a model that can be run'
[ -e "$work/x" ] || [ -e "$work/x.partial" ] && complain "a refused run leaves something"

finish
