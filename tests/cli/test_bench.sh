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
expect 0 bench model "$work/rd" --baseline "$tiny" --device cpu -p 16 -n 4 -r 1 --json
json 'length == 6 and all(.[]; .tokens_per_s > 0 and .ratio > 0) and ([.[] | .test] | unique == ["pp16", "tg4"])'
expect 0 bench model "$work/rd" --device cpu -p 8 -n 0 -r 1 && prints 'tokens/s'
expect 2 bench model "$work/rd" --device cpu -p 100000 && says 'context'

expect 0 bench model --synthetic test-tiny --device cpu -p 8 -n 4 -d 3 -r 1 --mode all --json
json 'length == 14 and all(.[]; .tokens_per_s > 0 and .ratio > 0 and .weights_mb > 0 and .kv_mb > 0)'
json '[.[] | .test] | unique == ["pp8 @ d3", "tg4 @ d3"]'
json '[.[] | .model] | unique == ["test-tiny FP16", "test-tiny int8", "test-tiny lossless", "test-tiny rd 4.25"]'
expect 0 bench model --synthetic test-tiny --device cpu -p 0 -n 4 -r 1 --bpw 3.5,4.5 --csv && prints '^test-tiny rd 3.5,compressed,cpu,tg4,'
expect 2 bench model --synthetic llama-9 --device cpu && says 'there are tinyllama-1.1b'
expect 2 bench model --synthetic test-tiny "$tiny" && says 'measure one of them'
expect 2 bench model --synthetic test-tiny --baseline "$tiny" && says 'FP16 form'
expect 2 bench model --synthetic test-tiny --device cpu -d 250 && says 'context'
expect 2 bench decode && says 'the path is missing'
expect 2 bench decode "$tiny" --bpw 4,5 && says 'one number'
expect 2 bench compress "$tiny" --shape 16x16 && says 'belongs to gemv'
expect 2 bench model "$tiny" -b 2 && says '-b belongs to gemv'
expect 2 bench gemv "$tiny" && says 'takes no path'
expect 2 bench gemv --device cpu && says 'kernels of a GPU'
expect 2 bench gemv -b 1,9 && says "not '1,9'"
expect 2 bench gemv -b 1, && says "not '1,'"
expect 2 bench gemv --bpw 4.25,, && says 'numbers from 1 to 16'
for shape in 16 16x 16x0 x16 16x16x16 16x16,; do
    expect 2 bench gemv --shape $shape && says "not '$shape'"
done
# Without a GPU, what needs one tells why there is none; with one, figures come out.
if "$codecllm" info --device cuda >/dev/null 2>&1; then
    expect 0 bench gemv --shape 512x1024 --bpw 4.25 -b 1,3 -r 2 --json
    json 'length == 6 and all(.[]; .us > 0 and .cublas_us > 0 and .error < 1e-5)'
    expect 0 bench decode --device cuda --synthetic test-tiny --mode int8 -r 2 --json
    json 'length == 3 and all(.[]; .us > 0 and .matrices == 22)'
else
    expect 6 bench gemv && says '(was not found|cannot be used|cannot open|interface)'
    expect 6 bench decode --device cuda && says '(was not found|cannot be used|cannot open|interface)'
    expect 6 bench model "$tiny" --device cuda && says '(was not found|cannot be used|cannot open|interface)'
fi
finish
