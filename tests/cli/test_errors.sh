# Files that are missing, wrong, damaged, or cannot be written: exit codes, and a message that names the file.
. "$(dirname "$0")/lib.sh"

for verb in verify info; do expect 4 "$verb" "$work/nowhere" && says 'nowhere'; done
expect 4 compress "$work/nowhere" -o "$work/x" && says 'nowhere'
expect 4 decompress "$work/nowhere" -o "$work/x" && says 'nowhere'
expect 4 run "$work/nowhere" -p x && says 'nowhere'
expect 4 ppl "$work/nowhere" -f "$tiny/heldout.txt" && says 'nowhere'
expect 4 ppl "$tiny" -f "$work/nowhere.txt" && says 'cannot open .*nowhere.txt: No such file'
expect 4 run "$tiny" -f "$work/nowhere.txt" && says 'nowhere.txt'
expect 4 bench decode "$work/nowhere" && says 'nowhere'
expect 3 bench decode "$tiny/config.json" && says 'config.json'

# Not a model directory; a directory with a broken file.
mkdir "$work/empty"
"$codecllm" info "$work/empty" >"$work/out" 2>"$work/err"
[ $? -ge 3 ] && says 'config.json|safetensors' || complain "info accepts an empty directory"
cp -r "$tiny" "$work/broken"
chmod -R u+w "$work/broken"
head -c 1000 "$tiny/model.safetensors" >"$work/broken/model.safetensors"
expect 3 info "$work/broken" && says 'model.safetensors'
expect 3 compress "$work/broken" -o "$work/x" && says 'model.safetensors'
cp "$tiny/model.safetensors" "$work/broken/model.safetensors"
echo '{"architectures": ["LlamaForCausalLM"' >"$work/broken/config.json"
expect 3 run "$work/broken" -p x && says 'config.json'
[ "$(grep -o 'at byte' "$work/err" | wc -l)" -eq 1 ] || complain "the position is told twice: $(cat "$work/err")"
jq '.model_type = "a\u001b[31mb"' "$tiny/config.json" >"$work/broken/config.json"
expect 6 run "$work/broken" -p x && says 'a\?\[31mb'
jq '.architectures = ["RwkvForCausalLM"] | .model_type = "rwkv"' "$tiny/config.json" >"$work/broken/config.json"
expect 6 run "$work/broken" -p x && says 'rwkv|Rwkv'
cp "$tiny/config.json" "$work/broken/config.json"
echo 'nonsense' >"$work/broken/tokenizer.json"
expect 3 run "$work/broken" -p x && says 'tokenizer.json'
rm "$work/broken/tokenizer.json"
expect 4 run "$work/broken" -p x && says 'has no tokenizer.json'
expect 4 ppl "$work/broken" -f "$tiny/heldout.txt" && says 'has no tokenizer.json'
jq '.added_tokens += [.added_tokens[0] + {id: 4096, content: "<beyond>"}]' "$tiny/tokenizer.json" >"$work/broken/tokenizer.json"
expect 3 run "$work/broken" -p 'x<beyond>' && says 'gives token 4096, but the model has only 4096'
cp "$tiny/tokenizer.json" "$work/broken/tokenizer.json"
expect 4 run "$tiny/config.json" -p x && says 'config.json is a file, not the folder'
expect 4 verify "$tiny/config.json" && says 'config.json is a file, not the folder'
bytes=$(wc -c <"$tiny/model.safetensors")
head -c 512 /dev/zero | tr '\0' '\377' | dd of="$work/broken/model.safetensors" bs=1 seek=$((bytes - 512)) conv=notrunc 2>/dev/null
expect 3 ppl "$work/broken" -f "$tiny/heldout.txt" --max-windows 1 && says 'weights are damaged'
expect 3 run "$work/broken" -p x && says 'weights are damaged'
[ ! -e "$work/x" ] || complain "a failed compress left an output"

# The output is there already; it cannot be created; the disk is full; memory runs out.
mkdir "$work/taken"
expect 7 compress "$tiny" -o "$work/taken" --mode int8 && says 'taken'
[ -z "$(ls -A "$work/taken")" ] || complain "compress wrote into an existing directory"
expect 4 compress "$tiny" -o /proc/x && says '/proc/x'
(
    ulimit -f 1000 # blocks of 512 bytes or of 1 KiB: less than the output in either case
    trap '' XFSZ   # so that a write fails, as on a full disk
    exec "$codecllm" compress "$tiny" -o "$work/full" --mode int8
) >"$work/out" 2>"$work/err"
code=$?
[ $code -eq 4 ] && says 'full' || complain "a full disk: exit code $code, $(cat "$work/err")"
[ ! -e "$work/full" ] || complain "a full disk left an output"
if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null && [ -z "${CLLM_SANITIZE:-}" ]; then
    # Root may write everywhere, so somebody else tries.
    mkdir "$work/readonly" && chmod 755 "$work" "$work/readonly"
    cp "$codecllm" "$work/codecllm" && chmod 755 "$work/codecllm" && cp -r "$tiny" "$work/tiny" && chmod -R a+rX "$work/tiny"
    setpriv --reuid=65534 --regid=65534 --clear-groups "$work/codecllm" compress "$work/tiny" -o "$work/readonly/x" >"$work/out" 2>"$work/err"
    code=$?
    [ $code -eq 4 ] && says 'Permission denied' || complain "a read-only folder: exit code $code, $(cat "$work/err")"
elif [ "$(id -u)" -ne 0 ]; then
    mkdir -m 555 "$work/readonly"
    expect 4 compress "$tiny" -o "$work/readonly/x" && says 'Permission denied'
fi
if [ -z "${CLLM_SANITIZE:-}" ]; then
    for limit in 12000 20000 40000 60000; do
        (
            ulimit -v $limit
            exec "$codecllm" compress "$tiny" -o "$work/small" --mode rd -t 1 --force
        ) >"$work/out" 2>"$work/err"
        code=$?
        case $code in
        0) ;;
        5) says 'codecllm: .*memory' && { ! grep -q 'memory: out of' "$work/err" || complain "told twice: $(cat "$work/err")"; } ;;
        *) complain "with $limit KiB of memory: exit code $code, $(cat "$work/err")" ;;
        esac
    done
fi
if [ -w /dev/full ]; then
    "$codecllm" info "$tiny" >/dev/full 2>"$work/err"
    [ $? -eq 4 ] && says 'cannot write to standard output' || complain "a full standard output goes unnoticed"
fi
finish
