# Budgets for memory: the same text at each, plans, and what is refused.
. "$(dirname "$0")/lib.sh"

expect 0 compress "$tiny" -o "$work/rd" --bpw 4.5
expect 0 info "$work/rd" --plan --device cpu -c 128 --json
json '.ram_budget_bytes == 0 and .ram_least_bytes < .ram_full_bytes and .ram_full_bytes < .ram_whole_bytes and .disk_bytes == 0 and .context == 128'
json '.tensors == 43 and .resident_tensors == 43 and .disk_tokens_per_s == null and .vram_planned_bytes == 0'
least=$(jq .ram_least_bytes "$work/out") whole=$(jq .ram_whole_bytes "$work/out")
middle=$(((least + whole) / 2))

expect 0 run "$work/rd" --device cpu -p "Once upon a time" -n 24 --temp 0 -c 128 --weights compressed && cp "$work/out" "$work/text"
for budget in "$least" "$middle" "$whole" 1G; do
    expect 0 run "$work/rd" --device cpu -p "Once upon a time" -n 24 --temp 0 -c 128 --max-ram "$budget"
    cmp "$work/out" "$work/text" || complain "another text with --max-ram $budget"
done
expect 0 run "$work/rd" --device cpu -p "Once upon a time" -n 4 --temp 0 -c 128 --max-ram "$middle" -v
says '^plan +memory: .* of .* \(at least .* all stays from .*\)$' && says 'of 43 matrices stay' && says 'reads from files .* a token.* no more than [0-9.]+ tokens/s$'
expect 0 run "$work/rd" --device cpu -p "Once upon a time" -n 4 --temp 0 -c 128 --max-ram "$middle" --json
json ".plan.ram_budget_bytes == $middle and .plan.ram_planned_bytes <= $middle and .plan.disk_bytes > 0 and .plan.slots > 0 and .plan.note == \"\""
expect 0 run "$work/rd" --device cpu -p "Once upon a time" -n 4 --temp 0 --json && json '.plan == null'
expect 0 ppl "$work/rd" --device cpu -f "$tiny/heldout.txt" --window 64 --max-windows 2 --max-ram "$whole" --json && cp "$work/out" "$work/ppl"
expect 0 ppl "$work/rd" --device cpu -f "$tiny/heldout.txt" --window 64 --max-windows 2 --weights compressed --json
[ "$(jq .ppl "$work/out")" = "$(jq .ppl "$work/ppl")" ] || complain "another perplexity with --max-ram"

expect 0 info "$work/rd" --plan --device cpu -c 128 --max-ram "$middle" && prints '^plan +memory: ' && prints 'a ring of [0-9]+ slots of'
expect 2 info "$work/rd" --plan --device cpu -c 128 --max-ram $((least - 1)) && says "at least $least bytes"
expect 2 run "$work/rd" --device cpu -p "Once" -n 4 -c 128 --max-ram $((least - 1)) && says "at least $least bytes" && says 'a smaller context'
expect 2 run "$work/rd" --device cpu -p "Once" --max-ram "$whole" --weights decoded && says 'exclude each other'
expect 2 run "$work/rd" --device cpu -p "Once" --max-ram much && says "not 'much'"
expect 2 run "$work/rd" --device cpu -p "Once" --max-vram much && says "not 'much'"
for size in 0x10 0x1p3 -1 1.5x nan 1e30 ''; do
    for option in --max-vram --max-ram; do expect 2 run "$work/rd" -p "Once" $option "$size" && says "not '$size'"; done
done
# shellcheck disable=SC2086
for verb in "run $work/rd -p Once" "info $work/rd --plan" "bench model $work/rd"; do
    expect 2 $verb --device cpu --max-vram 1G && says 'max-vram .* GPU.* but --device says cpu'
done
expect 2 bench model "$work/rd" --device cpu --timeline && says 'measure a GPU'
expect 0 info "$work/rd" --plan --device cpu && prints '^device +cpu$'
expect 0 info "$work/rd" --plan --device cpu --json && json '.device == "cpu"'
expect 2 info --plan --device cpu && says 'is missing'
expect 2 info "$work/rd" --plan --tensors && says 'ask for one of them'

expect 0 bench model "$work/rd" --device cpu -p 8 -n 8 -r 1 --max-ram 3M --json
json 'length == 2 and all(.[]; .held_mb <= .budget_mb and .planned_mb <= .budget_mb) and (.[1].disk_mb_per_token > 0) and (.[1].share_of_disk > 0)'
expect 0 bench model "$work/rd" --device cpu -p 0 -n 8 -r 1 --max-ram 3M && prints '% of disk'
expect 2 bench decode "$work/rd" --max-ram 1G && says 'belong to model'
expect 0 bench model --synthetic test-tied --save "$work/drawn" --bpw 4.25
expect 0 bench model "$work/drawn" --device cpu -p 8 -n 4 -r 1 --json && json 'length == 4'
expect 7 bench model --synthetic test-tied --save "$work/drawn" && says 'already there'
expect 4 bench model --synthetic test-tied --save "$work/none/drawn" && says 'cannot make the folder .*none/drawn: No such'
(
    ulimit -f 8
    trap '' XFSZ # so that a write fails, as on a full disk
    exec "$codecllm" bench model --synthetic test-tied --save "$work/half" --bpw 4.25
) >"$work/out" 2>"$work/err"
code=$?
[ $code -eq 4 ] && says 'cannot write .*half/model.safetensors' || complain "saving on a full disk: exit code $code, $(cat "$work/err")"
[ ! -e "$work/half" ] || complain "what could not be saved is left behind"
expect 2 bench model "$work/rd" --save "$work/again" && says 'belongs to model with --synthetic'
expect 6 bench model --synthetic test-tied --device cpu -p 0 -n 4 --max-ram 1500k && says 'lie in no files'
finish
