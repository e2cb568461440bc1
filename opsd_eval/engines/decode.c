/* Generation with a small Qwen3 or Llama model on one CPU core: the arithmetic of flat.py without the overhead of a
 * tensor library. Built on first use by kernel.py, which also packs the weights; without a compiler the loop in flat.py
 * computes the same.
 *
 * A batch of tokens goes through the model together, so that each weight read from memory serves all of them; the
 * products take ROWS of them at a time. A row's numbers never depend on which rows are computed with it, nor on the
 * number of threads: the same row gives the same bits in any company. Rows that end are replaced at once. start()
 * allocates all memory and finish() frees it.
 *
 * Legend: B tokens of a pass, a multiple of ROWS; D hidden, G key-value heads, R query heads for each, E head size,
 * M feed-forward size, V vocabulary.
 * Matrices (in, out) are packed in panels of 16 outputs: w[panel][in][16], the last panel padded with zeros. Keys are
 * kept in blocks of 16 positions: k[block][E][16]; values as v[position][E].
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 6
#define BLOCK 48 /* positions of prompts read together */
#define PANEL 16
#define LANES 8

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

typedef struct {
    const float *qkv, *out, *gate_up, *down; /* packed */
    const float *cosine, *sine;              /* (positions, R + 1, E): rotation times query/key norm weight and scale */
} Layer;

typedef struct {
    int32_t layers, hidden, groups, repeat, head, feed, vocabulary, positions, has_norm;
    float epsilon;
    const float *embedding; /* (V, D) */
    const float *unembedding;
    const Layer *layer;
} Model;

typedef struct { /* a row being generated, or a prompt being read */
    float *keys, *values;
    int capacity; /* positions, a multiple of PANEL */
} Slot;

typedef struct { /* one token on its way through the model */
    Slot *slot;
    int32_t token, position;
} Step;

static inline vec load(const float *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void store(float *p, vec v) { memcpy(p, &v, sizeof v); }

static inline vec splat(float x) { return x - (vec){0}; }

static inline float total(vec v) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}

/* e^x with relative error below 2e-7 on [-87, 88]; smaller x count as -87. */
static inline vec exponential(vec x) {
    const vec low = splat(-87.0f), high = splat(88.0f), magic = splat(12582912.0f);
    ivec below = x < low, above = x > high;
    x = (vec)((~below & (ivec)x) | (below & (ivec)low));
    x = (vec)((~above & (ivec)x) | (above & (ivec)high));
    vec shifted = x * 1.44269504f + magic, n = shifted - magic;
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    ivec power = ((ivec)shifted - 0x4B400000 + 127) << 23;
    return p * (vec)power;
}

/* One panel of y = x w, or y += x w, for ROWS rows. */
static inline void panel(const float *restrict x, int in, const float *restrict w, int out, float *restrict y, int add) {
    vec a[ROWS], b[ROWS];
    for (int r = 0; r < ROWS; r++) {
        a[r] = add ? load(y + (size_t)r * out) : (vec){0};
        b[r] = add ? load(y + (size_t)r * out + LANES) : (vec){0};
    }
    for (int k = 0; k < in; k++) {
        vec left = load(w + (size_t)k * PANEL), right = load(w + (size_t)k * PANEL + LANES);
        for (int r = 0; r < ROWS; r++) {
            float value = x[(size_t)r * in + k];
            a[r] += value * left;
            b[r] += value * right;
        }
    }
    for (int r = 0; r < ROWS; r++) {
        store(y + (size_t)r * out, a[r]);
        store(y + (size_t)r * out + LANES, b[r]);
    }
}

static void rows_panel(const float *x, int rows, int in, const float *w, int out, float *y, int add) {
    for (int r = 0; r < rows; r += ROWS) panel(x + (size_t)r * in, in, w, out, y + (size_t)r * out, add);
}

/* y = x w, or y += x w: x (rows rounded up to ROWS, in), y (the same rows, out), out a multiple of PANEL. */
static void multiply(const float *x, int rows, int in, const float *w, int out, float *y, int add, int threads) {
    if (threads == 1) {
        for (int n = 0; n < out; n += PANEL) rows_panel(x, rows, in, w + (size_t)n * in, out, y + n, add);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int n = 0; n < out; n += PANEL) rows_panel(x, rows, in, w + (size_t)n * in, out, y + n, add);
}

static float inverse_rms(const float *x, int n, float epsilon) {
    vec sum = {0};
    for (int i = 0; i < n; i += LANES) sum += load(x + i) * load(x + i);
    return 1.0f / sqrtf(total(sum) / n + epsilon);
}

static void normalise(const float *h, float *x, int rows, int n, float epsilon) {
    for (int r = 0; r < rows; r++, h += n, x += n) {
        float scale = inverse_rms(h, n, epsilon);
        for (int i = 0; i < n; i += LANES) store(x + i, load(h + i) * scale);
    }
}

/* Rotate one head in place, normalising it first where the model does. */
static void rotate(float *x, const float *cosine, const float *sine, int head, int has_norm, float epsilon) {
    float scale = has_norm ? inverse_rms(x, head, epsilon) : 1.0f;
    int half = head / 2;
    for (int i = 0; i < half; i += LANES) {
        vec first = load(x + i), second = load(x + half + i);
        store(x + i, (first * load(cosine + i) + second * load(sine + i)) * scale);
        store(x + half + i, (second * load(cosine + half + i) + first * load(sine + half + i)) * scale);
    }
}

/* Softmax-weighted values of one query over the first `count` positions. */
static void attend(const float *query, const float *keys, const float *values, int count, int head, float *score,
                   float *result) {
    float highest = -INFINITY;
    for (int t = 0; t < count; t += PANEL) {
        const float *block = keys + (size_t)t * head;
        vec a = {0}, b = {0};
        for (int e = 0; e < head; e++) {
            a += query[e] * load(block + e * PANEL);
            b += query[e] * load(block + e * PANEL + LANES);
        }
        store(score + t, a);
        store(score + t + LANES, b);
        for (int i = t; i < t + PANEL && i < count; i++)
            if (score[i] > highest) highest = score[i];
    }
    for (int i = count; i % PANEL; i++) score[i] = -INFINITY;
    vec sum = {0};
    for (int t = 0; t < count; t += LANES) {
        vec weight = exponential(load(score + t) - highest);
        store(score + t, weight);
        for (int i = count; i < t + LANES; i++) score[i] = 0;
        sum += load(score + t);
    }
    float inverse = 1.0f / total(sum);
    for (int e = 0; e < head; e += 2 * LANES) {
        vec a = {0}, b = {0};
        for (int t = 0; t < count; t++) {
            a += score[t] * load(values + (size_t)t * head + e);
            b += score[t] * load(values + (size_t)t * head + e + LANES);
        }
        store(result + e, a * inverse);
        store(result + e + LANES, b * inverse);
    }
}

static inline int panels(int n) { return (n + PANEL - 1) / PANEL * PANEL; }

typedef struct {
    float *hidden, *scaled, *qkv, *attended, *feed, *logits, *score; /* score: (B, capacity of a slot) */
} Scratch;

/* All heads of one row of the batch in layer l. */
static void attend_row(const Model *m, int l, const Step *step, int r, Scratch *s) {
    const int G = m->groups, R = m->repeat, E = m->head;
    const Slot *slot = step->slot;
    const float *query = s->qkv + (size_t)r * G * (R + 2) * E;
    float *result = s->attended + (size_t)r * G * R * E, *score = s->score + (size_t)r * panels(m->positions);
    for (int g = 0; g < G; g++, query += 2 * E) {
        size_t at = ((size_t)l * G + g) * slot->capacity * E;
        for (int h = 0; h < R; h++, query += E, result += E)
            attend(query, slot->keys + at, slot->values + at, step->position + 1, E, score, result);
    }
}

/* Run `count` tokens (at most B) through the model; with `want_logits`, scratch->logits gets (B, V padded). */
static void forward(const Model *m, const Step *steps, int count, int want_logits, int threads, Scratch *s) {
    const int D = m->hidden, G = m->groups, R = m->repeat, E = m->head, M = m->feed;
    const int width = G * (R + 2) * E, queries = G * R * E;
    for (int r = 0; r < count; r++)
        memcpy(s->hidden + (size_t)r * D, m->embedding + (size_t)steps[r].token * D, sizeof(float) * D);
    for (int r = count; r % ROWS; r++) memset(s->hidden + (size_t)r * D, 0, sizeof(float) * D);
    for (int l = 0; l < m->layers; l++) {
        const Layer *layer = m->layer + l;
        normalise(s->hidden, s->scaled, count, D, m->epsilon);
        multiply(s->scaled, count, D, layer->qkv, width, s->qkv, 0, threads);
        for (int r = 0; r < count; r++) {
            const Slot *slot = steps[r].slot;
            const int p = steps[r].position;
            const float *cosine = layer->cosine + (size_t)p * (R + 1) * E, *sine = layer->sine + (size_t)p * (R + 1) * E;
            for (int g = 0; g < G; g++) {
                float *x = s->qkv + (size_t)r * width + g * (R + 2) * E;
                for (int h = 0; h <= R; h++)
                    rotate(x + h * E, cosine + h * E, sine + h * E, E, m->has_norm, m->epsilon);
                size_t at = ((size_t)l * G + g) * slot->capacity * E;
                float *key = slot->keys + at + (size_t)(p / PANEL) * PANEL * E + p % PANEL;
                for (int e = 0; e < E; e++) key[e * PANEL] = x[R * E + e];
                memcpy(slot->values + at + (size_t)p * E, x + (R + 1) * E, sizeof(float) * E);
            }
        }
        if (threads == 1) {
            for (int r = 0; r < count; r++) attend_row(m, l, steps + r, r, s);
        } else {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
            for (int r = 0; r < count; r++) attend_row(m, l, steps + r, r, s);
        }
        multiply(s->attended, count, queries, layer->out, D, s->hidden, 1, threads);
        normalise(s->hidden, s->scaled, count, D, m->epsilon);
        multiply(s->scaled, count, D, layer->gate_up, 2 * M, s->feed, 0, threads);
        for (int r = 0; r < count; r++) {
            const float *gate = s->feed + (size_t)r * 2 * M;
            for (int i = 0; i < M; i += LANES) {
                vec value = load(gate + i);
                store(s->qkv + (size_t)r * M + i, value / (1.0f + exponential(-value)) * load(gate + M + i));
            }
        }
        multiply(s->qkv, count, M, layer->down, D, s->hidden, 1, threads); /* qkv's room holds the gated values here */
    }
    if (!want_logits) return;
    normalise(s->hidden, s->scaled, count, D, m->epsilon);
    multiply(s->scaled, count, D, m->unembedding, panels(m->vocabulary), s->logits, 0, threads);
}

/* Number t of a row's stream: streams.py's uniforms(). */
static double uniform(uint64_t seed, uint64_t t) {
    uint64_t z = seed + (t + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return ((double)(z >> 12) + 0.5) * 0x1p-52;
}

/* The token that `u` picks from the logits at a temperature (0: the highest); `logp` gets its raw log-probability. */
static int32_t pick(float *logits, int count, float temperature, double u, float *weights, float *logp) {
    int32_t best = 0;
    for (int i = 1; i < count; i++)
        if (logits[i] > logits[best]) best = i;
    const float highest = logits[best];
    for (int i = count; i % PANEL; i++) logits[i] = -INFINITY;
    int32_t chosen = best;
    if (temperature > 0) {
        double sum = 0, seen = 0;
        for (int i = 0; i < count; i += LANES) store(weights + i, exponential((load(logits + i) - highest) / temperature));
        for (int i = 0; i < count; i++) sum += weights[i];
        for (chosen = 0; chosen < count - 1; chosen++) {
            seen += weights[chosen];
            if (seen > u * sum) break;
        }
    }
    if (logp) {
        double sum = 0;
        for (int i = 0; i < count; i += LANES) store(weights + i, exponential(load(logits + i) - highest));
        for (int i = 0; i < count; i++) sum += weights[i];
        *logp = (float)(logits[chosen] - highest - log(sum));
    }
    return chosen;
}

static int make_slot(const Model *m, Slot *slot, int capacity) {
    slot->capacity = capacity;
    size_t bytes = sizeof(float) * m->layers * m->groups * m->head * (size_t)capacity;
    slot->keys = calloc(1, bytes);
    slot->values = calloc(1, bytes);
    return slot->keys && slot->values;
}

static void copy_slot(const Model *m, Slot *to, const Slot *from) {
    const size_t E = m->head;
    for (size_t i = 0; i < (size_t)m->layers * m->groups; i++) {
        memcpy(to->keys + i * to->capacity * E, from->keys + i * from->capacity * E, sizeof(float) * from->capacity * E);
        memcpy(to->values + i * to->capacity * E, from->values + i * from->capacity * E,
               sizeof(float) * from->capacity * E);
    }
}

typedef struct { /* a row of the caller's on its way through the batch */
    Slot *slot;
    int row, made;
} Live;

/* Generation under way: the caller's arrays, what is left to do, and all memory. See start(). */
typedef struct {
    const Model *model;
    const int32_t *prompts, *offsets, *row_prompt;
    const uint64_t *seeds;
    const uint8_t *is_stop;
    int32_t *tokens, *lengths;
    float *logp, temperature;
    int n_prompts, rows, most, batch, block, threads;
    int prompt, at;  /* the next prompt to read, and its next token */
    int count, next; /* rows in the batch; the next row to admit */
    Scratch scratch;
    float *weights;
    Slot *read, *own;
    Step *steps;
    Live *live;
} Run;

/* Free everything; `run` may be NULL or half made. */
void finish(Run *run) {
    if (!run) return;
    Scratch *s = &run->scratch;
    for (int i = 0; run->read && i < run->n_prompts; i++) free(run->read[i].keys), free(run->read[i].values);
    for (int r = 0; run->own && r < run->batch; r++) free(run->own[r].keys), free(run->own[r].values);
    free(s->hidden), free(s->scaled), free(s->qkv), free(s->attended), free(s->feed), free(s->logits), free(s->score);
    free(run->weights), free(run->read), free(run->own), free(run->steps), free(run->live), free(run);
}

/* Begin to generate rows. prompts: ids of all prompts, prompt i at offsets[i] .. offsets[i + 1]. Row j continues prompt
 * row_prompt[j] with stream seeds[j]. tokens, logp (may be NULL): (rows, most); lengths: (rows), 0 until a row has
 * ended, which it does with a token that is_stop marks or after `most` tokens. `batch` rows are computed together,
 * by `threads` threads. The arrays must outlive the run. NULL when memory ran out. */
Run *start(const Model *m, const int32_t *prompts, const int32_t *offsets, int n_prompts, const int32_t *row_prompt,
           const uint64_t *seeds, int rows, const uint8_t *is_stop, float temperature, int most, int batch, int threads,
           int32_t *tokens, float *logp, int32_t *lengths) {
    const size_t wide = panels(m->vocabulary), longest = panels(m->positions), D = m->hidden, M = m->feed;
    const size_t queries = m->groups * m->repeat * m->head, width = queries + 2 * m->groups * m->head;
    const size_t B = ((batch > BLOCK ? batch : BLOCK) + ROWS - 1) / ROWS * ROWS, number = sizeof(float);
    Run *run = calloc(1, sizeof(Run));
    if (!run) return NULL;
    *run = (Run){
        .model = m, .prompts = prompts, .offsets = offsets, .row_prompt = row_prompt, .seeds = seeds,
        .is_stop = is_stop, .tokens = tokens, .lengths = lengths, .logp = logp, .temperature = temperature,
        .n_prompts = n_prompts, .rows = rows, .most = most, .batch = batch, .block = B,
        .threads = threads,
        .scratch = {
            .hidden = calloc(B * D, number), .scaled = calloc(B * D, number),
            .qkv = calloc(B * (width > M ? width : M), number), .attended = calloc(B * queries, number),
            .feed = calloc(B * 2 * M, number), .logits = calloc(B * wide, number), .score = calloc(B * longest, number),
        },
        .weights = calloc(wide, number), .read = calloc(n_prompts, sizeof(Slot)), .own = calloc(batch, sizeof(Slot)),
        .steps = calloc(B, sizeof(Step)), .live = calloc(batch, sizeof(Live)),
    };
    const Scratch *s = &run->scratch;
    int made = s->hidden && s->scaled && s->qkv && s->attended && s->feed && s->logits && s->score && run->weights &&
               run->read && run->own && run->steps && run->live;
    for (int i = 0; i < n_prompts && made; i++) {
        int count = offsets[i + 1] - offsets[i] - 1;
        made = make_slot(m, run->read + i, panels(count > 0 ? count : 1));
    }
    for (int r = 0; r < run->batch && r < rows && made; r++) {
        made = make_slot(m, run->own + r, longest);
        run->live[r].slot = run->own + r;
    }
    if (made) return run;
    finish(run);
    return NULL;
}

/* Read the next B positions of the prompts (all tokens of each but its last); 0 when all have been read. */
static int read_prompts(Run *run) {
    int count = 0;
    while (count < run->block && run->prompt < run->n_prompts) {
        const int32_t *offset = run->offsets + run->prompt;
        if (run->at >= offset[1] - offset[0] - 1) {
            run->prompt++, run->at = 0;
            continue;
        }
        run->steps[count++] = (Step){run->read + run->prompt, run->prompts[offset[0] + run->at], run->at};
        run->at++;
    }
    if (count) forward(run->model, run->steps, count, 0, run->threads, &run->scratch);
    return count;
}

/* One token for every row of the batch, after free places have been filled; 0 when all rows have ended. */
static int next_tokens(Run *run) {
    const Model *m = run->model;
    Step *steps = run->steps;
    Live *live = run->live;
    for (; run->count < run->batch && run->next < run->rows; run->count++, run->next++) { /* admit */
        int i = run->row_prompt[run->next], last = run->offsets[i + 1] - 1;
        Live *row = live + run->count;
        copy_slot(m, row->slot, run->read + i);
        steps[run->count] = (Step){row->slot, run->prompts[last], last - run->offsets[i]};
        row->row = run->next, row->made = 0;
    }
    if (!run->count) return 0;
    forward(m, steps, run->count, 1, run->threads, &run->scratch);
    for (int r = 0; r < run->count; r++) {
        size_t at = (size_t)live[r].row * run->most + live[r].made;
        double u = uniform(run->seeds[live[r].row], live[r].made);
        float *logits = run->scratch.logits + (size_t)r * panels(m->vocabulary);
        steps[r].token =
            pick(logits, m->vocabulary, run->temperature, u, run->weights, run->logp ? run->logp + at : NULL);
        run->tokens[at] = steps[r].token;
        steps[r].position++;
        live[r].made++;
    }
    for (int r = 0; r < run->count;) { /* finished rows change places with the last one */
        if (!run->is_stop[steps[r].token] && live[r].made < run->most) {
            r++;
            continue;
        }
        run->lengths[live[r].row] = live[r].made;
        run->count--;
        Live freed = live[r];
        steps[r] = steps[run->count], live[r] = live[run->count], live[run->count] = freed;
    }
    return 1;
}

/* Up to `passes` passes of the model; 0 when all rows have ended. */
int advance(Run *run, int passes) {
    while (passes-- > 0)
        if (!read_prompts(run) && !next_tokens(run)) return 0;
    return 1;
}
