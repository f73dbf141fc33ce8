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
finish
