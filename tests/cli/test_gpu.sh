# A real GPU: perplexity as on the CPU in every mode, the golden greedy texts, what is told about memory. Skipped where there is none.
. "$(dirname "$0")/lib.sh"
text=$tiny/heldout.txt

"$codecllm" info --device cuda >"$work/out" 2>"$work/err"
code=$?
if [ $code -eq 6 ]; then
    echo "skipped: $(cat "$work/err")"
    exit 77
fi
[ $code -eq 0 ] || complain "info --device cuda: exit code $code, $(cat "$work/err")"
cat "$work/out"
prints '^cuda:0$' && prints 'name +.' && prints 'built for +.*sm_' && prints 'memory +[0-9.]+ [GM]B' && prints 'copy bandwidth +[0-9.]+ [GT]B/s'
expect 0 info --device auto --json && json '.device == "cuda:0" and .copy_bytes_per_s > 1e10'
expect 6 info --device cuda:1000 && says 'cuda:1000 cannot be used'

expect 0 compress "$tiny" -o "$work/int8" --mode int8
expect 0 compress "$tiny" -o "$work/rd" --bpw 4.5
expect 0 compress "$tiny" -o "$work/rd-fast" --bpw 3 --profile fast
expect 0 compress "$tiny" -o "$work/exact" --mode lossless

# same_ppl LIMIT DIR ARGUMENTS...: perplexity on the GPU within that part of the CPU's.
same_ppl() {
    limit=$1 dir=$2
    shift 2
    expect 0 ppl "$dir" -f "$text" --json "$@" --device cpu && on_cpu=$(jq .ppl "$work/out")
    expect 0 ppl "$dir" -f "$text" --json "$@" --device cuda || return
    echo "$dir $*: perplexity $(jq .ppl "$work/out") on the GPU, $on_cpu on the CPU"
    json ".device == \"cuda:0\" and (.ppl / $on_cpu - 1 | fabs) < $limit"
}
for dir in "$tiny" "$work/int8" "$work/rd" "$work/rd-fast" "$work/exact"; do same_ppl 0.001 "$dir" --max-windows 4; done
same_ppl 0.001 "$work/rd" --max-windows 4 --kv-type f32
same_ppl 0.001 "$work/rd" --max-windows 4 --window 1000
same_ppl 0.001 "$work/exact" --max-windows 4 --window 9
# int8 activations round by what needs the whole text to average out, and then still leaves some 0.07 %
for dir in "$work/int8" "$work/rd" "$work/rd-fast"; do same_ppl 0.002 "$dir" --prompt-type auto; done

# The golden texts, from the GPU's own choice and from the sampler's: a penalty of next to nothing wants the logits.
for dir in "$tiny" "$work/exact"; do
    for penalty in 1 1.0000001; do
        for i in 0 1 2 3 4; do
            prompt=$(jq -r ".prompts[$i].prompt" "$tiny/golden.json")
            expect 0 run "$dir" --device cuda -p "$prompt" -n 48 --temp 0 --json --ignore-eos --repeat-penalty $penalty
            json '.generated_tokens == 48 and .stop == "length" and .device == "cuda:0" and .device_note == null'
            if [ "$(jq -r ".prompts[$i].greedy_text" "$tiny/golden.json")" != "$prompt$(jq -r .text "$work/out")" ]; then
                complain "$dir: greedy text of '$prompt' is not the golden one: $(jq -r .text "$work/out")"
            fi
        done
    done
done

expect 0 run "$work/rd" -p "Once upon a time" -n 40 -s 5 -v && cp "$work/out" "$work/first"
says '^computing on cuda:0 ' && says '^memory +weights [0-9.]+ [kM]B, KV cache [0-9.]+ [kM]B, .*together .* on cuda:0$'
says '^reads .* of weights a token, .*/s, [0-9.]+ % of the .*/s of a copy$'
expect 0 run "$work/rd" -p "Once upon a time" -n 40 -s 5 && cmp "$work/out" "$work/first" || complain "the same seed gives another text"
expect 0 run "$work/rd" --device cuda -p "Once upon a time" -n 2 --json
json '.memory_bytes.weights > 0 and .memory_bytes.kv > 0 and .weights_decoded == false and .read_per_token_bytes > 0'
expect 0 run "$work/rd" --device cuda -p "Once upon a time" -n 500 -c 32 --ignore-eos --temp 0 --json
json '.stop == "context" and .generated_tokens == 33 - .prompt_tokens'
printf 'Hello\nWho are you?\nAnd why?\n' | "$codecllm" run "$work/rd" --device cuda -cnv --chat-template chatml -n 8 -s 1 >"$work/out" 2>"$work/err" ||
    complain "conversation: $(cat "$work/err")"

# With budgets: the same text, and a plan. A model this small is dwarfed by what the driver takes, which the smallest budget tells.
expect 0 run "$work/rd" --device cuda -p "Once upon a time" -n 24 --temp 0 -c 128 && cp "$work/out" "$work/text"
expect 0 info "$work/rd" --plan --device cuda -c 128 --json && json '.vram_least_bytes <= .vram_full_bytes and .vram_full_bytes < .vram_whole_bytes'
least=$(jq .vram_least_bytes "$work/out") whole=$(jq .vram_whole_bytes "$work/out")
for budget in "$least" $(((least + whole) / 2)) "$whole" auto; do
    expect 0 run "$work/rd" --device cuda -p "Once upon a time" -n 24 --temp 0 -c 128 --max-vram "$budget"
    cmp "$work/out" "$work/text" || complain "another text with --max-vram $budget"
done
expect 0 run "$work/rd" --device cuda -p "Once upon a time" -n 8 --temp 0 -c 128 --max-vram "$least" -v
says '^plan +GPU memory: ' && says 'copies to the device .* a token.* no more than [0-9.]+ tokens/s$' && says 'pinned on the host'
expect 0 run "$work/rd" --device cuda -p "Once upon a time" -n 24 --temp 0 -c 128 --max-vram "$least" --max-ram 3M --json
json '.plan.disk_bytes > 0 and .plan.ram_planned_bytes <= 3000000 and .memory_bytes.pinned <= 3000000'
[ "$(jq -r .text "$work/out")" = "$(sed 's/^Once upon a time//' "$work/text")" ] || complain "another text from files"
expect 2 run "$work/rd" --device cuda -p "Once" -n 4 -c 128 --max-vram $((least - 1)) && says "at least $least bytes"
expect 0 bench model "$work/rd" --device cuda -p 8 -n 8 -r 1 --max-vram min,full,50%,all --timeline --json
json 'length == 8 and all(.[]; .tokens_per_s > 0) and all(.[:6][]; .planned_mb <= .budget_mb and .held_mb <= .budget_mb) and (.[1].share_of_bus > 0) and (.[3].timeline.copies > 1)'
finish
