# The benchmarks run and print rows in all three styles. Their figures are not judged here.
. "$(dirname "$0")/lib.sh"

expect 0 compress "$tiny" -o "$work/rd" --bpw 4.5
expect 0 bench decode "$tiny" --limit 300k -r 2 --json
json 'length >= 12 and all(.[]; .bench == "decode" and .gb_per_s_per_core > 0 and .bits_per_weight > 0)'
json '[.[] | .decoder] | (index("scalar") and index("zstd -1") and index("zstd -9") and index("memcpy")) != null'
json '[.[] | .mode] | unique == ["int8", "lossless", "rd"]'
expect 0 bench decode "$work/rd" --limit 300k -r 2 && prints 'out GB/s per core'
expect 0 bench decode "$tiny/model.safetensors" --limit 100k -r 1 --mode int8 --csv && prints '^mode,decoder,' && prints '^int8,scalar,int8,'
expect 0 bench compress "$tiny" --limit 300k --json
json 'length == 8 and all(.[]; .mb_per_s_per_core > 0 and .bits_per_weight < 16.5)'
expect 2 bench compress "$work/rd" && says 'compressed already'
expect 0 bench model "$work/rd" --baseline "$tiny" -p 16 -n 4 -r 1 --json
json 'length == 6 and all(.[]; .tokens_per_s > 0 and .ratio > 0) and ([.[] | .test] | unique == ["pp16", "tg4"])'
expect 0 bench model "$work/rd" -p 8 -n 0 -r 1 && prints 'tokens/s'
expect 2 bench model "$work/rd" -p 100000 && says 'context'
finish
