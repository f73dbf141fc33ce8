# Text: the golden greedy continuation, seeds, prompts from files, limits, conversations.
. "$(dirname "$0")/lib.sh"

expect 0 compress "$tiny" -o "$work/exact" --mode lossless
expect 0 compress "$tiny" -o "$work/rd" --bpw 4.5
for dir in "$tiny" "$work/exact"; do
    for i in 0 1 2 3 4; do
        prompt=$(jq -r ".prompts[$i].prompt" "$tiny/golden.json")
        expect 0 run --device cpu "$dir" -p "$prompt" -n 48 --temp 0 --json --ignore-eos
        json '.generated_tokens == 48 and .stop == "length" and .prompt_tokens > 0 and .generated_tokens_per_s > 0'
        if [ "$(jq -r ".prompts[$i].greedy_text" "$tiny/golden.json")" != "$prompt$(jq -r .text "$work/out")" ]; then
            complain "$dir: greedy text of '$prompt' is not the golden one: $(jq -r .text "$work/out")"
        fi
    done
done

expect 0 run --device cpu "$work/rd" -p "Once upon a time" -n 24 -s 5 && prints '^Once upon a time' && says 'generation +24 tokens, .* tokens/s'
says 'seed 5'
cp "$work/out" "$work/first"
expect 0 run --device cpu -m "$work/rd" -p "Once upon a time" -n 24 -s 5 && cmp "$work/out" "$work/first"
expect 0 run --device cpu "$work/rd" -p "Once upon a time" -n 24 -s 5 -t 1 && cmp "$work/out" "$work/first" || complain "threads change the text"
expect 0 run --device cpu "$work/rd" -p "Once upon a time" -n 24 -s 5 --no-display-prompt
if grep -q '^Once upon a time' "$work/out"; then complain "--no-display-prompt shows the prompt"; fi
expect 0 run --device cpu "$work/rd" -p "Once upon a time" -n 24 --seed=6 --top-k 0 --top-p 1 --min-p 0 --repeat-penalty 1.1 --repeat-last-n 32 --temp 1
cmp -s "$work/out" "$work/first" && complain "another seed gives the same text"
for weights in compressed decoded; do
    expect 0 run --device cpu "$work/rd" -p "Once upon a time" -n 8 --temp 0 --weights $weights --json
    json ".weights_decoded == $([ $weights = decoded ] && echo true || echo false)"
done

printf 'It was a dark' >"$work/prompt"
expect 0 run --device cpu "$work/rd" -f "$work/prompt" -n 4 -s 1 && prints '^It was a dark'
"$codecllm" run --device cpu "$work/rd" -f - -n 4 -s 1 <"$work/prompt" >"$work/second" 2>/dev/null
cmp "$work/out" "$work/second" || complain "-f - reads another prompt than -f FILE"
expect 2 run "$work/rd" && says 'no prompt'
expect 2 run "$work/rd" -f "$tiny/heldout.txt" -c 64 && says 'ask for more with -c'
[ ! -s "$work/out" ] || complain "a prompt that does not fit is shown"
expect 2 run "$work/rd" -f "$tiny/heldout.txt" -c 1024 && says 'and the context 1024; shorten it$'
expect 0 run --device cpu "$work/rd" -p "Once upon a time" -n 500 -c 32 --ignore-eos --json && json '.stop == "context" and .generated_tokens < 32'
expect 0 run --device cpu "$work/rd" -p "Once upon a time" -n 0 --json && json '.text == "" and .generated_tokens == 0'

# Conversations: a template by name, several turns, more turns than fit.
expect 6 run "$work/rd" -cnv --chat-template nonsense && says 'chatml'
printf 'Hello\nWho are you?\n' | "$codecllm" run --device cpu "$work/rd" -cnv --chat-template chatml -sys "Be brief." -n 8 -s 1 >"$work/out" 2>"$work/err" ||
    complain "conversation: $(cat "$work/err")"
says 'generation +1[0-6] tokens|generation +[0-9] tokens'
yes 'tell me more about this and that' | head -n 12 | "$codecllm" run --device cpu "$work/rd" -cnv --chat-template chatml -n 8 -s 1 -c 160 >"$work/out" 2>"$work/err" ||
    complain "long conversation: $(cat "$work/err")"
says 'oldest turn was dropped'

# Templates from a file, with variables; what is wrong with one is told with its place.
printf "{%% for m in messages %%}{{ m.role }}: {{ m.content }}{%% endfor %%}{%% if mood != 'fine' %%}{{ raise_exception('a bad mood') }}{%% endif %%}" >"$work/template"
printf 'Hello\n' | "$codecllm" run --device cpu "$work/rd" -cnv --chat-template-file "$work/template" --template-kwargs '{"mood": "fine"}' -n 4 -s 1 >"$work/out" 2>"$work/err" ||
    complain "template file: $(cat "$work/err")"
expect 2 run "$work/rd" -cnv --chat-template-file "$work/template" && says 'line 1, column [0-9]+: the template refuses the conversation: a bad mood'
expect 2 run "$work/rd" -cnv --chat-template-file "$work/template" --chat-template-kwargs '{"mood":' && says 'template variables: line 1'
printf 'Hi {{' >"$work/template"
expect 3 run "$work/rd" -cnv --chat-template-file "$work/template" && says 'chat template, line 1, column 6'
expect 2 run "$work/rd" -cnv --chat-template chatml --chat-template-file "$work/template" && says 'both give a template'

# On a terminal a conversation is held without being asked for, unless the model's own template is unusable, which is told.
if command -v script >/dev/null; then
    cp -r "$work/rd" "$work/unusable"
    printf '{%% if %%}' >"$work/unusable/chat_template.jinja"
    script -qec "'$codecllm' run --device cpu '$work/unusable' -p 'Once upon a time' -n 4 -s 1 2>'$work/err'" /dev/null >"$work/out" </dev/null ||
        complain "unusable template on a terminal: $(cat "$work/err" "$work/out")"
    says '^codecllm: no conversation: chat template, line 1, column 7: ' && prints '^Once upon a time'
    expect 0 run --device cpu "$work/unusable" -p "Once upon a time" -n 4 -s 1 && prints '^Once upon a time'
    if grep -q 'no conversation' "$work/err"; then complain "without a terminal nobody expects a conversation: $(cat "$work/err")"; fi
else
    echo "no script(1): what a terminal is told is not tested"
fi

# Ctrl-C ends a generation cleanly.
"$codecllm" run --device cpu "$work/rd" -p "Once upon a time" -n 1000 --ignore-eos -s 3 >"$work/out" 2>"$work/err" &
pid=$!
sleep 0.3
if kill -INT $pid 2>/dev/null; then
    wait $pid
    code=$?
    [ $code -eq 130 ] || [ $code -eq 0 ] || complain "Ctrl-C gives exit code $code"
fi
finish
