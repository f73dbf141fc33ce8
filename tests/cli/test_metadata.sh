# Metadata as the Hub writes it: what a reader does not need does not stop it, what it needs is judged by its meaning.
. "$(dirname "$0")/lib.sh"

# variant NAME FILE FILTER: a copy of the tiny model whose FILE went through jq.
variant() {
    rm -rf "$work/$1"
    cp -r "$tiny" "$work/$1"
    chmod -R u+w "$work/$1"
    jq "$3" "$tiny/$2" >"$work/$1/$2"
}
# text DIR: its greedy text, in $work/out.
text() { expect 0 run --device cpu "$1" -p "Once upon a time" -n 12 --temp 0; }
text "$tiny" && cp "$work/out" "$work/plain"
same() { text "$1" && { cmp -s "$work/out" "$work/plain" || complain "$1: another text: $(cat "$work/out")"; }; }

# jq itself would write 1e30 otherwise; transformers writes this number where a tokenizer has no limit
variant long tokenizer_config.json '.model_max_length = "LIMIT"'
sed -i 's/"LIMIT"/1000000000000000019884624838656/' "$work/long/tokenizer_config.json"
same "$work/long"
expect 0 compress "$work/long" -o "$work/long-exact" --mode lossless && expect 0 verify "$work/long-exact" && same "$work/long-exact"

variant theta config.json '.rope_parameters.rope_theta = "THETA"'
sed -i 's/"THETA"/1e400/' "$work/theta/config.json"
expect 3 run "$work/theta" -p "Once" -n 1 && says 'rope_theta'
variant unused config.json '.unused = ["A", "B", null, {"C": "D"}]'
sed -i 's/"A"/1e400/;s/"B"/-99999999999999999999/;s/"D"/Infinity/' "$work/unused/config.json"
same "$work/unused"

# Token ids of -1, and a generation_config.json that is no JSON: a warning, once.
variant none config.json '.bos_token_id = -1 | .eos_token_id = [-1] | .pad_token_id = -1'
echo '{"eos_token_id": 1,}' >"$work/none/generation_config.json"
same "$work/none" && says '^codecllm: warning: generation_config.json is not used'
[ "$(grep -c warning "$work/err")" -eq 1 ] || complain "not one warning: $(cat "$work/err")"

# What run will not take is said when it is compressed and looked at, and an unknown architecture is called unknown.
expect 0 info "$tiny" --json && json '.runs == true'
variant unknown config.json '.model_type = "mamba3" | .architectures = ["Mamba3LMHeadModel"]'
expect 0 info "$work/unknown" && prints 'run +will not take it: .*"mamba3" is unknown'
expect 0 info "$work/unknown" --json && json '.runs == false and (.runs_not_because | contains("mamba3"))'
expect 0 compress "$work/unknown" -o "$work/unknown-exact" --mode lossless && says 'run will not take .*unknown-exact: .*"mamba3" is unknown'
expect 0 compress "$tiny" -o "$work/exact" --mode lossless
if grep -q 'will not take' "$work/err"; then complain "run is said not to take models/tiny"; fi
expect 6 run "$work/unknown" -p Once && says '"mamba3" is unknown'
if grep -q 'generate' "$work/err"; then complain "unknown, not unable to generate: $(cat "$work/err")"; fi
variant bare config.json . && rm "$work/bare/tokenizer.json"
expect 0 info "$work/bare" && prints 'will not take it: .*no tokenizer.json'

# Weights that other methods quantized are named.
variant gptq config.json '.quantization_config = {"quant_method": "gptq", "bits": 4}'
expect 6 run "$work/gptq" -p Once && says 'GPTQ'
expect 0 info "$work/gptq" && prints 'will not take it: .*GPTQ'
expect 6 compress "$work/gptq" -o "$work/never" && says 'gptq'

# Messages name a directory once.
variant eps config.json '.rms_norm_eps = 7'
expect 3 run "$work/eps" -p Once
[ "$(grep -o "$work/eps" "$work/err" | wc -l)" -eq 1 ] || complain "the directory is not named once: $(cat "$work/err")"
echo '{' >"$work/eps/tokenizer.json"
expect 3 run "$work/eps" -p Once
[ "$(grep -o "$work/eps" "$work/err" | wc -l)" -eq 1 ] || complain "the directory is not named once: $(cat "$work/err")"

# More context is offered only where there is more.
expect 0 run --device cpu "$tiny" -p "Once upon a time" -n 40 -c 16 --ignore-eos && says 'is full; ask for more with -c$'
variant short config.json '.max_position_embeddings = 16'
expect 0 run --device cpu "$work/short" -p "Once upon a time" -n 40 --ignore-eos && says 'of 16 tokens is full$'
finish
