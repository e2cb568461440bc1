/* Generation with a small Qwen3 or Llama model on one CPU core: the arithmetic of flat.py without the overhead of a
 * tensor library. Built on first use by kernel.py, which also packs the weights; without a compiler the loop in flat.py
 * computes the same.
 *
 * ROWS tokens go through the model together, so that each weight read serves all of them. A row's numbers never depend
 * on which rows are computed with it: the same row gives the same bits in any company. Rows that end are replaced at
 * once. All scratch memory is allocated here and freed before returning.
 *
 * Legend: D hidden, G key-value heads, R query heads for each, E head size, M feed-forward size, V vocabulary.
 * Matrices (in, out) are packed in panels of 16 outputs: w[panel][in][16], the last panel padded with zeros. Keys are
 * kept in blocks of 16 positions: k[block][E][16]; values as v[position][E].
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 6
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

/* y = x w, or y += x w: x (ROWS, in), y (ROWS, out rounded up to panels). */
static void multiply(const float *restrict x, int in, const float *restrict w, int out, float *restrict y, int add) {
    for (int n = 0; n < out; n += PANEL, w += (size_t)in * PANEL) {
        vec a[ROWS], b[ROWS];
        for (int r = 0; r < ROWS; r++) {
            a[r] = add ? load(y + (size_t)r * out + n) : (vec){0};
            b[r] = add ? load(y + (size_t)r * out + n + LANES) : (vec){0};
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
            store(y + (size_t)r * out + n, a[r]);
            store(y + (size_t)r * out + n + LANES, b[r]);
        }
    }
}

static float inverse_rms(const float *x, int n, float epsilon) {
    vec sum = {0};
    for (int i = 0; i < n; i += LANES) sum += load(x + i) * load(x + i);
    return 1.0f / sqrtf(total(sum) / n + epsilon);
}

static void normalise(const float *h, float *x, int n, float epsilon) {
    for (int r = 0; r < ROWS; r++, h += n, x += n) {
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
    float *hidden, *scaled, *qkv, *attended, *feed, *logits, *score;
} Scratch;

/* Run `count` tokens (at most ROWS) through the model; with `want_logits`, scratch->logits gets (ROWS, V padded). */
static void forward(const Model *m, const Step *steps, int count, int want_logits, Scratch *s) {
    const int D = m->hidden, G = m->groups, R = m->repeat, E = m->head, M = m->feed;
    const int width = G * (R + 2) * E, queries = G * R * E;
    for (int r = 0; r < ROWS; r++)
        memcpy(s->hidden + r * D, m->embedding + (size_t)(r < count ? steps[r].token : 0) * D, sizeof(float) * D);
    for (int l = 0; l < m->layers; l++) {
        const Layer *layer = m->layer + l;
        normalise(s->hidden, s->scaled, D, m->epsilon);
        multiply(s->scaled, D, layer->qkv, width, s->qkv, 0);
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
        for (int r = 0; r < count; r++)
            for (int g = 0; g < G; g++) {
                const Slot *slot = steps[r].slot;
                size_t at = ((size_t)l * G + g) * slot->capacity * E;
                for (int h = 0; h < R; h++)
                    attend(s->qkv + (size_t)r * width + (g * (R + 2) + h) * E, slot->keys + at, slot->values + at,
                           steps[r].position + 1, E, s->score, s->attended + (size_t)r * queries + (g * R + h) * E);
            }
        multiply(s->attended, queries, layer->out, D, s->hidden, 1);
        normalise(s->hidden, s->scaled, D, m->epsilon);
        multiply(s->scaled, D, layer->gate_up, 2 * M, s->feed, 0);
        for (int r = 0; r < ROWS; r++) {
            const float *gate = s->feed + (size_t)r * 2 * M;
            for (int i = 0; i < M; i += LANES) {
                vec value = load(gate + i);
                store(s->qkv + (size_t)r * M + i, value / (1.0f + exponential(-value)) * load(gate + M + i));
            }
        }
        multiply(s->qkv, M, layer->down, D, s->hidden, 1); /* qkv's room holds the gated values here */
    }
    if (!want_logits) return;
    normalise(s->hidden, s->scaled, D, m->epsilon);
    multiply(s->scaled, D, m->unembedding, panels(m->vocabulary), s->logits, 0);
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

/* Keys and values of a prompt's tokens but the last, ROWS positions at a time. */
static void read_prompt(const Model *m, Slot *slot, const int32_t *ids, int count, Scratch *s) {
    Step steps[ROWS];
    for (int start = 0; start < count; start += ROWS) {
        int n = count - start < ROWS ? count - start : ROWS;
        for (int r = 0; r < n; r++) steps[r] = (Step){slot, ids[start + r], start + r};
        forward(m, steps, n, 0, s);
    }
}

/* Generate rows. prompts: ids of all prompts, prompt i at offsets[i] .. offsets[i + 1]. Row j continues prompt
 * row_prompt[j] with stream seeds[j]. tokens, logp (may be NULL): (rows, most); lengths: (rows). A row ends with a token
 * that is_stop marks, or after `most` tokens. Returns 0, or 1 when memory ran out. */
int generate(const Model *m, const int32_t *prompts, const int32_t *offsets, int n_prompts, const int32_t *row_prompt,
             const uint64_t *seeds, int rows, const uint8_t *is_stop, float temperature, int most, int32_t *tokens,
             float *logp, int32_t *lengths) {
    const int wide = panels(m->vocabulary), longest = panels(m->positions);
    const int width = m->groups * (m->repeat + 2) * m->head, larger = width > m->feed ? width : m->feed;
    Scratch s = {
        calloc(ROWS, sizeof(float) * m->hidden), calloc(ROWS, sizeof(float) * m->hidden),
        calloc(ROWS, sizeof(float) * larger),    calloc(ROWS, sizeof(float) * m->groups * m->repeat * m->head),
        calloc(ROWS, sizeof(float) * 2 * m->feed), calloc(ROWS, sizeof(float) * wide), calloc(longest, sizeof(float)),
    };
    float *weights = calloc(wide, sizeof(float));
    Slot *read = calloc(n_prompts, sizeof(Slot)), live[ROWS] = {{0}};
    int failed = !(s.hidden && s.scaled && s.qkv && s.attended && s.feed && s.logits && s.score && weights && read);
    for (int r = 0; r < ROWS && !failed; r++) failed = !make_slot(m, live + r, longest);
    for (int i = 0; i < n_prompts && !failed; i++) {
        int count = offsets[i + 1] - offsets[i] - 1;
        failed = !make_slot(m, read + i, panels(count > 0 ? count : 1));
        if (!failed) read_prompt(m, read + i, prompts + offsets[i], count, &s);
    }
    Step steps[ROWS];
    Slot *own[ROWS];
    int row[ROWS], made[ROWS], count = 0, next = 0;
    for (int r = 0; r < ROWS; r++) own[r] = live + r;
    while (!failed && (count || next < rows)) {
        for (; count < ROWS && next < rows; count++, next++) { /* admit */
            int i = row_prompt[next], last = offsets[i + 1] - 1;
            copy_slot(m, own[count], read + i);
            steps[count] = (Step){own[count], prompts[last], last - offsets[i]};
            row[count] = next;
            made[count] = 0;
        }
        forward(m, steps, count, 1, &s);
        for (int r = 0; r < count; r++) {
            size_t at = (size_t)row[r] * most + made[r];
            double u = uniform(seeds[row[r]], made[r]);
            steps[r].token = pick(s.logits + (size_t)r * wide, m->vocabulary, temperature, u, weights, logp ? logp + at : NULL);
            tokens[at] = steps[r].token;
            steps[r].position++;
            made[r]++;
        }
        for (int r = 0; r < count;) { /* finished rows change places with the last one */
            if (!is_stop[steps[r].token] && made[r] < most) {
                r++;
                continue;
            }
            lengths[row[r]] = made[r];
            count--;
            Slot *freed = own[r];
            steps[r] = steps[count], row[r] = row[count], made[r] = made[count], own[r] = own[count];
            own[count] = freed;
        }
    }
    for (int i = 0; read && i < n_prompts; i++) free(read[i].keys), free(read[i].values);
    for (int r = 0; r < ROWS; r++) free(live[r].keys), free(live[r].values);
    free(s.hidden), free(s.scaled), free(s.qkv), free(s.attended), free(s.feed), free(s.logits), free(s.score);
    free(weights), free(read);
    return failed;
}
