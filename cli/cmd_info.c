#include "args.h"
#include "cli.h"
#include "compare.h"
#include "container/json.h"
#include "convert/loss.h"
#include "device.h"
#include "engine/device.h"
#include "entropy.h"
#include "json.h"
#include "plan.h"

static const char *mode_name(cllm_mode mode) {
    switch (mode) {
    case CLLM_MODE_RAW:
        return "raw";
    case CLLM_MODE_INT8:
        return "int8";
    case CLLM_MODE_RD:
        return "rd";
    case CLLM_MODE_LOSSLESS:
        return "lossless";
    }
    return "?";
}

typedef struct tensor_row {
    const cllm_entry *entry;
    cllm_tensor_info info; /* of a compressed entry */
    const cllm_entry *reference;
    cli_snr snr;
    bool has_typical; /* a compressed matrix beside an uncompressed one */
    double typical_db; /* of its typical column or row, see convert/loss.h */
} tensor_row;

static cllm_status describe(const cllm_entry *entry, const cllm_dir *reference, tensor_row *row, cllm_error *err) {
    *row = (tensor_row){.entry = entry};
    if (entry->compressed) {
        cllm_tensor *tensor;
        cllm_status status = cllm_tensor_open(entry->data, entry->bytes, &tensor, err);
        if (status != CLLM_OK) return status;
        cllm_tensor_get_info(tensor, &row->info);
        cllm_tensor_close(tensor);
    }
    if (reference == NULL || !cli_entry_is_numeric(entry)) return CLLM_OK;
    row->reference = cllm_dir_find(reference, entry->name);
    if (row->reference == NULL || !cli_entry_is_numeric(row->reference)) {
        row->reference = NULL;
        return CLLM_OK;
    }
    cllm_status status = cli_compare_entries(entry, row->reference, &row->snr, err);
    row->has_typical = entry->compressed && !row->reference->compressed && row->reference->ndim == 2;
    if (status == CLLM_OK && row->has_typical)
        status = cllm_loss_typical(row->reference, entry->data, (size_t)entry->bytes, &row->typical_db, err);
    return status;
}

static void print_row(const tensor_row *row) {
    const cllm_entry *e = row->entry;
    uint64_t weights = cllm_entry_count(e);
    char shape[64];
    if (e->ndim == 2)
        snprintf(shape, sizeof shape, "%llux%llu", (unsigned long long)e->shape[0], (unsigned long long)e->shape[1]);
    else
        snprintf(shape, sizeof shape, "%llu", (unsigned long long)weights);
    printf("%-48s %-5s %14s %9s", cllm_show(e->name).text, e->dtype, shape, cli_bytes(e->bytes));
    printf(" %7.3f", weights > 0 ? 8.0 * (double)e->bytes / (double)weights : 0.0);
    if (e->compressed) {
        const cllm_tensor_info *i = &row->info;
        printf(" %-8s", mode_name(i->mode));
        if (i->mode != CLLM_MODE_RAW)
            printf(" N=%d levels=%d planes=%d L=%d KC=%d outliers=%llu%s%s%s%s", i->tuple, i->levels, i->planes,
                   i->max_length, i->tile_cols, (unsigned long long)i->outliers, i->fold ? " fold" : "",
                   i->trellis ? " trellis" : "", i->has_row_scale ? " rows" : "", i->has_col_scale ? " columns" : "");
    } else {
        printf(" %-8s", "as it is");
    }
    if (row->reference != NULL) printf(" SNR=%.2f dB", cli_snr_db(&row->snr));
    if (row->has_typical) printf(" typical=%.2f dB", row->typical_db);
    putchar('\n');
}

static json_t *row_json(const tensor_row *row) {
    const cllm_entry *e = row->entry;
    uint64_t weights = cllm_entry_count(e);
    json_t *shape = json_array();
    for (uint32_t i = 0; i < e->ndim; i++) json_array_append_new(shape, json_integer((json_int_t)e->shape[i]));
    json_t *object = json_pack("{s:s, s:s, s:o, s:I, s:b, s:o}", "name", e->name, "dtype", e->dtype, "shape", shape,
                               "bytes", (json_int_t)e->bytes, "compressed", e->compressed, "bits_per_weight",
                               cli_json_number(weights > 0 ? 8.0 * (double)e->bytes / (double)weights : 0.0));
    if (e->compressed) {
        const cllm_tensor_info *i = &row->info;
        json_t *coding = json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:b, s:I}", "mode", mode_name(i->mode), "tuple",
                                   i->tuple, "levels", i->levels, "planes", i->planes, "max_length", i->max_length,
                                   "tile_cols", i->tile_cols, "fold", i->fold, "outliers", (json_int_t)i->outliers);
        json_object_set_new(coding, "trellis", json_boolean(i->trellis));
        json_object_update_new(object, coding);
    }
    if (row->reference != NULL) json_object_set_new(object, "snr_db", cli_json_number(cli_snr_db(&row->snr)));
    if (row->has_typical) json_object_set_new(object, "typical_snr_db", cli_json_number(row->typical_db));
    return object;
}

typedef struct info_options {
    const char *dir, *compare;
    cli_device_options device;
    int context;
    bool json, tensors, entropy, plan;
} info_options;

/* Sums over the tensors. */
typedef struct info_sums {
    cli_snr snr;
    double coded_bits, entropy_bits; /* of the compressed ones */
} info_sums;

/* Goes through the tensors: prints or collects rows, adds up the distance of the matrices. */
static cllm_status walk(const info_options *o, json_t *rows, info_sums *sums, cllm_error *err) {
    cllm_dir *dir = NULL, *reference = NULL;
    cllm_status status = cllm_dir_open(o->dir, &dir, err);
    if (status == CLLM_OK && o->compare != NULL) status = cllm_dir_open(o->compare, &reference, err);
    for (size_t i = 0; status == CLLM_OK && i < cllm_dir_count(dir) && !cli_interrupted(); i++) {
        tensor_row row;
        const cllm_entry *entry = cllm_dir_at(dir, i);
        status = describe(entry, reference, &row, err);
        if (status != CLLM_OK) break;
        if (entry->ndim == 2) { /* norms and biases are never coded */
            sums->snr.signal += row.snr.signal;
            sums->snr.noise += row.snr.noise;
            sums->snr.weights += row.snr.weights;
        }
        if (o->entropy && entry->compressed) {
            double bits;
            status = cli_entropy_bits(entry, &bits, err);
            if (status != CLLM_OK) break;
            sums->entropy_bits += bits;
            sums->coded_bits += 8.0 * (double)entry->bytes;
        }
        if (!o->tensors) continue;
        if (rows != NULL)
            json_array_append_new(rows, row_json(&row));
        else
            print_row(&row);
    }
    cllm_dir_close(reference);
    cllm_dir_close(dir);
    return status;
}

static int describe_device(const info_options *o) {
    cllm_device d;
    cllm_error err;
    if (cllm_device_get_info(o->device.device, true, &d, &err) != CLLM_OK) return cli_report(&err);
    if (o->json)
        return cli_print_json(json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:o}", "device", d.id, "name", d.name, "detail",
                                        d.detail, "built_for", d.built_for, "memory_bytes", (json_int_t)d.memory,
                                        "free_memory_bytes", (json_int_t)d.free_memory, "copy_bytes_per_s",
                                        d.copy_bytes_per_s > 0 ? json_real(d.copy_bytes_per_s) : json_null()));
    printf("%s\n  name             %s\n  detail           %s\n  built for        %s\n", d.id, d.name, d.detail,
           d.built_for[0] != '\0' ? d.built_for : "unknown");
    printf("  memory           %s, %s free\n", cli_bytes(d.memory), cli_bytes(d.free_memory));
    if (d.copy_bytes_per_s > 0)
        printf("  copy bandwidth   %s/s (read plus written)\n", cli_bytes((uint64_t)d.copy_bytes_per_s));
    return CLI_OK;
}

/* What run would do with these budgets. */
static int describe_plan(const info_options *o) {
    cllm_model_params params;
    cllm_plan plan;
    cli_floors floors;
    cllm_device_kind kind;
    cllm_device_choice choice;
    cllm_error err;
    cllm_model_params_default(&params);
    params.context = (uint32_t)o->context;
    int code = cli_device_apply(&o->device, &params);
    if (code >= 0) return code;
    if (cllm_device_settle(params.device, &kind, &choice, &err) != CLLM_OK) return cli_report(&err);
    cli_tell_fallback(&o->device, choice.note[0] != '\0' ? choice.note : NULL);
    params.device = choice.id;
    if (cllm_model_plan(o->dir, &params, &plan, &err) != CLLM_OK) return cli_report(&err);
    cli_floors_measure(&plan, params.device, o->dir, &floors);
    if (o->json) {
        json_t *json = cli_plan_json(&plan, &floors);
        json_object_set_new(json, "device", json_string(choice.id));
        return cli_print_json(json);
    }
    printf("device      %s\n", choice.id);
    cli_plan_print(stdout, &plan, &floors);
    return CLI_OK;
}

static bool wants_plan(const info_options *o) {
    return o->plan || o->device.max_vram != NULL || o->device.max_ram > 0 || o->context > 0;
}

int cmd_info(int argc, char **argv) {
    info_options o = {.dir = NULL, .device = CLI_DEVICE_DEFAULTS};
    int count;
    const arg_option options[] = {
        {.names = "--tensors", .kind = ARG_FLAG, .target = &o.tensors, .help = "list every tensor and how it is coded"},
        {.names = "--compare",
         .kind = ARG_STRING,
         .target = &o.compare,
         .value = "DIR",
         .help = "decode the matrices and tell their signal-to-noise ratio against those of DIR (dB); with --tensors also that of the "
                 "typical column or row of each, which a few large ones do not hide"},
        {.names = "--entropy",
         .kind = ARG_FLAG,
         .target = &o.entropy,
         .help = "decode the matrices and tell how many bytes the format takes over the entropy of their integers"},
        {.names = "-dev, --device",
         .kind = ARG_STRING,
         .target = &o.device.device,
         .value = "DEVICE",
         .help = "instead of a directory, or with --plan: what the device (cpu, cuda, cuda:N, or auto for the one that "
                 "would be taken) is, "
                 "its memory, and how fast it copies"},
        {.names = "--plan",
         .kind = ARG_FLAG,
         .target = &o.plan,
         .help = "what run would keep in memory and what it would stream, and how fast that can be at most"},
        cli_option_max_vram(&o.device),
        cli_option_max_ram(&o.device),
        cli_option_keys(&o.device),
        cli_option_values(&o.device),
        {.names = "-c, --ctx-size",
         .kind = ARG_INT,
         .target = &o.context,
         .value = "N",
         .min = 0,
         .max = 1e9,
         .help = "--plan: context in tokens (default: what the model was made for, at most 4096)"},
        {.names = "--json", .kind = ARG_FLAG, .target = &o.json, .help = "print JSON"},
        {.names = NULL},
    };
    const arg_spec spec = {
        .usage = "info DIR [options] | info --device DEVICE | info DIR --plan [--max-vram SIZE] [--max-ram SIZE]",
        .description =
            "Tells what a model directory, compressed or not, holds. Bits per weight count every byte of every tensor.",
        .examples = "codecllm info tiny-4.5\ncodecllm info tiny-4.5 --tensors --compare models/tiny\n"
                    "codecllm info --device cuda\ncodecllm info tiny-4.5 --plan --max-ram 8M --device cpu",
        .options = options,
        .min_positional = 0,
        .max_positional = 1,
        .positional = "the model directory",
    };
    int code = args_parse(&spec, argc, argv, &o.dir, &count);
    if (code >= 0) return code;
    if (wants_plan(&o)) {
        if (o.tensors || o.entropy || o.compare != NULL)
            return cli_fail(CLI_USAGE, "--plan tells about memory, not about tensors; ask for one of them");
        if (count == 0) return cli_fail(CLI_USAGE, "%s is missing (usage: codecllm %s)", spec.positional, spec.usage);
        return describe_plan(&o);
    }
    if (o.device.device != NULL && (count > 0 || o.tensors || o.entropy || o.compare != NULL))
        return cli_fail(CLI_USAGE, "--device tells about a device, not about a directory; ask for one of them");
    if (o.device.device != NULL) return describe_device(&o);
    if (count == 0) return cli_fail(CLI_USAGE, "%s is missing (usage: codecllm %s)", spec.positional, spec.usage);

    cllm_error err;
    cllm_dir_info info;
    if (cllm_dir_get_info(o.dir, &info, &err) != CLLM_OK) return cli_report(&err);
    info_sums sums = {0};
    json_t *rows = o.json && o.tensors ? json_array() : NULL;
    if ((o.tensors || o.entropy || o.compare != NULL) && walk(&o, rows, &sums, &err) != CLLM_OK) {
        json_decref(rows);
        return cli_report(&err);
    }
    if (cli_interrupted()) {
        json_decref(rows);
        return cli_fail(CLI_INTERRUPTED, "interrupted");
    }
    cllm_error why;
    bool runs = cli_would_run(o.dir, &why);
    if (o.json) {
        json_t *object = cli_json_dir(&info);
        json_object_set_new(object, "runs", json_boolean(runs));
        if (!runs) json_object_set_new(object, "runs_not_because", json_string(why.message));
        if (o.compare != NULL) json_object_set_new(object, "snr_db", cli_json_number(cli_snr_db(&sums.snr)));
        if (o.entropy) {
            json_object_set_new(object, "coded_bytes", cli_json_number(sums.coded_bits / 8));
            json_object_set_new(object, "entropy_bytes", cli_json_number(sums.entropy_bits / 8));
        }
        if (rows != NULL) json_object_set_new(object, "tensor_list", rows);
        return cli_print_json(object);
    }
    printf("%s\n  architecture     %s\n  mode             %s\n  weights          %llu\n  tensor bytes     %llu (%s)\n",
           o.dir, info.architecture, info.mode, (unsigned long long)info.weights, (unsigned long long)info.bytes,
           cli_bytes(info.bytes));
    printf("  bits per weight  %.4f\n  tensors          %u (%u compressed) in %u files\n", info.bits_per_weight,
           info.tensors, info.compressed_tensors, info.files);
    cli_print_calibration(&info, "  calibrated on    ");
    if (!runs) printf("  run              will not take it: %s\n", why.message);
    if (o.compare != NULL)
        printf("  weight SNR       %.2f dB against %s (%llu weights)\n", cli_snr_db(&sums.snr), o.compare,
               (unsigned long long)sums.snr.weights);
    if (o.entropy && sums.entropy_bits > 0)
        printf("  entropy          %.0f bytes; the %.0f coded bytes are %.2f %% more\n", sums.entropy_bits / 8,
               sums.coded_bits / 8, 100 * (sums.coded_bits / sums.entropy_bits - 1));
    return CLI_OK;
}
