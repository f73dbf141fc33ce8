# Help, wrong verbs, wrong options, wrong values: exit codes and what is said.
. "$(dirname "$0")/lib.sh"

expect 2 && prints 'Usage: codecllm VERB'
expect 0 help && prints 'Exit codes'
expect 0 --help && prints 'decompress'
expect 0 version && prints '^codecllm [0-9]+\.[0-9]+\.[0-9]+$'
expect 0 version --json && json '.version | length > 0'
expect 0 version && prints '^cuda: '
for verb in compress decompress verify info run ppl bench; do
    expect 0 "$verb" --help
    prints "^Usage: codecllm $verb "
    prints '^Example:'
    prints "^  codecllm $verb "
    prints '--json'
    prints 'Exit codes: 0 done'
    expect 0 help "$verb" && prints "^Usage: codecllm $verb "
    expect 0 "$verb" something --bad -h && prints '^Usage'
    expect 2 "$verb" --no-such-thing && says 'unknown option --no-such-thing'
done

expect 2 compres && says "unknown verb 'compres'; did you mean compress"
expect 2 frobnicate && says "unknown verb 'frobnicate'"
expect 2 compress "$tiny" -o "$work/x" --bwp 4 && says 'did you mean --bpw'
expect 2 compress "$tiny" -o "$work/x" --mod=rd && says 'did you mean --mode'
expect 2 run "$tiny" --tmep 0 && says 'did you mean --temp'
expect 2 compress && says 'the model directory is missing'
expect 2 compress "$tiny" && says '-o OUT is missing'
expect 2 compress "$tiny" -o && says '-o needs a value'
expect 2 compress "$tiny" -o "$work/x" --mode int4 && says 'one of int8, rd, lossless'
expect 2 compress "$tiny" -o "$work/x" --bpw four && says "takes a number, not 'four'"
expect 2 compress "$tiny" -o "$work/x" --bpw nan && says "takes a number, not 'nan'"
expect 2 compress "$tiny" -o "$work/x" --bpw 0.1 && says 'from 1 to 16'
expect 2 compress "$tiny" -o "$work/x" --bpw=99 && says 'from 1 to 16'
expect 2 compress "$tiny" -o "$work/x" --mode int8 --bpw 4 && says '--bpw belongs to --mode rd'
expect 2 compress "$tiny" -o "$work/x" --shard-size 5XB && says 'a size such as'
expect 2 compress "$tiny" -o "$work/x" --shard-size 10 && says 'out of range'
expect 2 compress "$tiny" -o "$work/x" --threads 1.5 && says 'whole number'
expect 2 compress "$tiny" -o "$work/x" --force=yes && says 'takes no value'
expect 2 compress "$tiny" extra -o "$work/x" && says "do not know what to do with 'extra'"
expect 2 decompress "$tiny" && says '-o DIR is missing'
expect 2 run && says 'the model directory is missing'
expect 2 run "$tiny" -m "$tiny" -p x && says 'which one'
expect 2 run "$tiny" -p x -f y && says 'use one of them'
expect 2 run "$tiny" -p x -n -2 && says 'from -1'
expect 2 run "$tiny" -p x -s 99999999999999999999 && says 'whole number'
expect 2 run "$tiny" -p x --weights packed && says 'auto, compressed, decoded'
expect 2 run "$tiny" -p x --device gpu && says "'gpu' is no device; it is auto, cpu, cuda"
expect 2 run "$tiny" -p x -dev cuda:one && says 'cuda:N'
expect 2 run "$tiny" -p x -ctk f32 -ctv f16 && says 'have one type'
expect 2 run "$tiny" -p x --kv-type q8_0 && says 'one of f16, f32'
expect 2 info && says 'the model directory is missing'
expect 2 info "$tiny" --device cpu && says 'ask for one of them'
expect 2 info --device cpu --tensors && says 'ask for one of them'
expect 2 info --device nothing && says "'nothing' is no device"
expect 2 ppl "$tiny" && says '-f FILE is missing'
expect 2 ppl "$tiny" -f x --score half && says 'all, second-half'
expect 2 bench && says 'missing'
expect 2 bench deocde "$tiny" && says 'did you mean decode'
expect 2 bench decode "$tiny" --json --csv && says 'exclude each other'
[ ! -e "$work/x" ] && [ ! -e "$work/x.partial" ] || complain "a refused command line wrote something"
finish
