# --device with a GPU library beside the program that computes on the CPU, with a broken one, and with none.
. "$(dirname "$0")/lib.sh"
fake=$CLLM_BUILD/fake/libcodecllm_cuda.so
[ -e "$fake" ] || { echo "no $fake"; exit 1; }
# A program of its own folder, so that what lies beside it can change.
mkdir "$work/bin"
cp "$codecllm" "$work/bin/codecllm"
codecllm=$work/bin/codecllm

expect 0 info --device cpu && prints '^cpu$' && prints 'memory +[0-9.]+ GB, ' && prints 'copy bandwidth +[0-9.]+ [MGT]B/s'
expect 0 info --device cpu --json && json '.device == "cpu" and .memory_bytes > 0 and .copy_bytes_per_s > 0 and (.name | length > 0)'
expect 0 ppl "$tiny" -f "$tiny/heldout.txt" --max-windows 1 --device cpu --json && json '.device == "cpu"'
on_cpu=$(jq .ppl "$work/out")
expect 0 run "$tiny" -p "Once upon a time" -n 40 --temp 0 --device cpu
cp "$work/out" "$work/text"
# The same by the sampler's own choice: with a penalty of next to nothing tokens come one by one.
expect 0 run "$tiny" -p "Once upon a time" -n 40 --temp 0 --repeat-penalty 1.0000001 --device cpu && cmp "$work/out" "$work/text"

# A broken library: the reason is told once, and only where somebody looks.
echo nonsense >"$work/bin/libcodecllm_cuda.so"
expect 0 run "$tiny" -p "Once upon a time" -n 40 --temp 0 -v && cmp "$work/out" "$work/text"
says '^codecllm: computing on the CPU: .*libcodecllm_cuda.so'
says '^computing on cpu \(' && says '^memory +weights [0-9.]+ [kM]B, KV cache .*, together .* on cpu$'
says '^reads +[0-9.]+ [kM]B of weights a token, [0-9.]+ [kMG]B/s$'
expect 0 run "$tiny" -p "Once upon a time" -n 2
if grep -q 'computing on' "$work/err"; then complain "a script is told where it computes: $(cat "$work/err")"; fi
expect 0 run "$tiny" -p "Once upon a time" -n 2 --json && json '.device == "cpu" and (.device_note | contains("libcodecllm_cuda.so"))'
expect 0 ppl "$tiny" "$tiny" -f "$tiny/heldout.txt" --max-windows 1 -v
[ "$(grep -c 'computing on the CPU' "$work/err")" -eq 1 ] || complain "ppl tells the reason not once: $(cat "$work/err")"
for verb in "run $tiny -p x" "ppl $tiny -f $tiny/heldout.txt" "info"; do
    # shellcheck disable=SC2086 # several words
    expect 6 $verb --device cuda && says 'libcodecllm_cuda.so'
done
expect 0 version && prints '^cuda: none, .*libcodecllm_cuda.so'
# Whoever gives a budget for a GPU is told why there is none.
for verb in "run $tiny -p x -n 2" "ppl $tiny -f $tiny/heldout.txt --max-windows 1" "info $tiny --plan"; do
    # shellcheck disable=SC2086 # several words
    expect 0 $verb --max-vram 1G && says 'computing on the CPU, where --max-vram has no effect: .*libcodecllm_cuda.so'
done
expect 6 bench model "$tiny" --max-vram min,1G && says 'measure a GPU, but .*libcodecllm_cuda.so'

# The library that works: auto takes it, and everything that is printed comes from it.
cp "$fake" "$work/bin/libcodecllm_cuda.so"
expect 0 version && prints '^cuda: .*/bin/libcodecllm_cuda.so, built for nothing$'
expect 0 version --json && json '.cuda_built_for == "nothing" and .cuda_missing == null'
expect 0 info --device cuda:1 && prints '^cuda:1$' && prints 'name +Fake' && prints 'memory +2.0 GB, 1.0 GB free' && prints '1.0 TB/s'
expect 0 info --device auto --json && json '.device == "cuda:0" and .copy_bytes_per_s == 1e12'
expect 6 info --device cuda:2 && says 'cuda:2 cannot be used: there are only 2 devices'
expect 0 run "$tiny" -p "Once upon a time" -n 40 --temp 0 -v && cmp "$work/out" "$work/text"
says '^computing on cuda:0 \(Fake\)' && says 'ring 12.3 MB, .*graph 4.3 kB, together .* on cuda:0$'
says '^reads .* of weights a token, [0-9.]+ [kMG]B/s, [0-9.]+ % of the 1.0 TB/s of a copy$'
expect 0 run "$tiny" -p "Once upon a time" -n 40 --temp 0 --device cuda:1 --kv-type f32 --json
json '.device == "cuda:1" and .device_note == null and .generated_tokens == 40 and .memory_bytes.ring == 12345678 and .memory_bytes.kv > 0'
[ "$(head -n 1 "$work/text")" = "Once upon a time$(jq -r .text "$work/out")" ] || complain "another text: $(jq -r .text "$work/out")"
expect 0 ppl "$tiny" -f "$tiny/heldout.txt" --max-windows 1 --json && json ".device == \"cuda:0\" and .ppl == $on_cpu"
# Limits fall between the chunks in which greedy tokens come.
for n in 0 1 2 3 5; do expect 0 run "$tiny" -p "Once upon a time" -n $n --temp 0 --json && json ".generated_tokens == $n"; done
expect 0 run "$tiny" -p "Once upon a time" -n 500 --temp 0 -c 32 --ignore-eos --json
json '.stop == "context" and .generated_tokens == 33 - .prompt_tokens'
printf 'Hello\nWho are you?\nAnd why?\n' | "$codecllm" run "$tiny" -cnv --chat-template chatml -n 9 --temp 0 >"$work/out" 2>"$work/err" ||
    complain "conversation: $(cat "$work/err")"
printf 'Hello\nWho are you?\nAnd why?\n' | "$codecllm" run "$tiny" -cnv --chat-template chatml -n 9 --temp 0 --repeat-penalty 1.0000001 --device cpu >"$work/second" 2>/dev/null
cmp "$work/out" "$work/second" || complain "a greedy conversation depends on how its tokens come"

# Found beside the program also through a link to it.
ln -s "$work/bin/codecllm" "$work/link"
codecllm=$work/link
expect 0 info --device cuda && prints '^cuda:0$'
PATH=$work:$PATH
codecllm='link'
expect 0 info --device cuda && prints '^cuda:0$'
# And in the folder of libraries of an installed tree, which the message names second.
rm "$work/bin/libcodecllm_cuda.so"
expect 0 version
installed=$(sed -n 's/^cuda: none, .*looked for [^,]*, \([^,]*\),.*/\1/p' "$work/out")
case $installed in */bin/../lib*/libcodecllm_cuda.so) ;; *) complain "no place of an installed tree in: $(cat "$work/out")" ;; esac
mkdir -p "$(dirname "$installed")" && cp "$fake" "$installed"
expect 0 info --device cuda && prints '^cuda:0$'
finish
