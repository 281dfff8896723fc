/* The inner loops that dominate training on a CPU: the GRU over time, products with small matrices, and Snake2D. float32, single-threaded.

   The GRU walks through all time steps for a few rows at once, so that their states, the gates and the weights stay in the
   first-level cache; a framework's GRU streams all rows through memory at every step. C must be a multiple of 8. */

#include <math.h>
#include <string.h>

typedef float v8 __attribute__((vector_size(32), aligned(4), may_alias));
#define ROWS 16
#define UNROLLED _Pragma("GCC unroll 8")  /* or the sums stay in memory: six times slower */

/* y[nr, 8·nv] += x[nr, k] · w[k, 8·nv]; leading dimensions in ldx, ldw, ldy */
static inline __attribute__((always_inline)) void tile(
    int nr, int nv, int k, const float *x, int ldx, const float *w, int ldw, float *y, int ldy) {
  v8 sum[8][3];
  UNROLLED for (int r = 0; r < nr; r++)
    UNROLLED for (int v = 0; v < nv; v++) sum[r][v] = *(const v8 *)(y + r * ldy + 8 * v);
  for (int i = 0; i < k; i++)
    UNROLLED for (int v = 0; v < nv; v++) {
      v8 weight = *(const v8 *)(w + (long)i * ldw + 8 * v);
      UNROLLED for (int r = 0; r < nr; r++) sum[r][v] += x[r * ldx + i] * weight;
    }
  UNROLLED for (int r = 0; r < nr; r++)
    UNROLLED for (int v = 0; v < nv; v++) *(v8 *)(y + r * ldy + 8 * v) = sum[r][v];
}

/* y[ROWS, n] += x[ROWS, k] · w[k, n] */
static void multiply(int n, int k, const float *x, int ldx, const float *w, float *y) {
  for (int r = 0; r < ROWS; r += 4) {
    int j = 0;
    for (; j + 24 <= n; j += 24) tile(4, 3, k, x + r * ldx, ldx, w + j, n, y + r * n + j, n);
    for (; j + 16 <= n; j += 16) tile(4, 2, k, x + r * ldx, ldx, w + j, n, y + r * n + j, n);
  }
  if (n % 24 % 16)
    for (int r = 0, j = n - 8; r < ROWS; r += 8) tile(8, 1, k, x + r * ldx, ldx, w + j, n, y + r * n + j, n);
}

/* y [R, n] = x [R, k] · w [k, n] + b [n]; n must be a multiple of 8 */
void linear(long R, int k, int n, const float *x, const float *w, const float *b, float *y) {
  float in[ROWS * k], out[ROWS * n];
  for (long first = 0; first < R; first += ROWS, x += ROWS * k, y += ROWS * n) {
    int rows = R - first < ROWS ? R - first : ROWS;
    const float *from = x;
    float *to = y;
    if (rows < ROWS) {  /* the last few */
      memcpy(in, x, rows * k * sizeof(float));
      memset(in + rows * k, 0, (ROWS - rows) * k * sizeof(float));
      from = in, to = out;
    }
    for (int r = 0; r < ROWS; r++) memcpy(to + r * n, b, n * sizeof(float));
    multiply(n, k, from, k, w, to);
    if (rows < ROWS) memcpy(y, out, rows * n * sizeof(float));
  }
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/* x [T, R, 3C]: the input's share of the gates (r, z, n), overwritten by the gates; u [C, 3C]; b [C]; h [T + 1, R, C] with
   h[0] given; m [T, R, C]: the state's share of the candidate. n = tanh(x_n + r·m), h ← n + z·(h − n). */
void gru_forward(long T, long R, int C, float *x, const float *u, const float *b, float *h, float *m) {
  float gates[ROWS * 3 * C], state[ROWS * C];
  for (long first = 0; first < R; first += ROWS) {
    int rows = R - first < ROWS ? R - first : ROWS;
    memset(state, 0, sizeof state);
    memcpy(state, h + first * C, rows * C * sizeof(float));
    for (long t = 0; t < T; t++) {
      memset(gates, 0, sizeof gates);
      multiply(3 * C, C, state, C, u, gates);
      for (int r = 0; r < rows; r++) {
        float *g = x + (t * R + first + r) * 3 * C, *mm = m + (t * R + first + r) * C, *hh = state + r * C;
        const float *s = gates + r * 3 * C;
#pragma omp simd
        for (int c = 0; c < 2 * C; c++) g[c] = sigmoid(g[c] + s[c]);
#pragma omp simd
        for (int c = 0; c < C; c++) {
          mm[c] = s[2 * C + c] + b[c];
          float n = 2.0f * sigmoid(2.0f * (g[2 * C + c] + g[c] * mm[c])) - 1.0f;
          g[2 * C + c] = n;
          hh[c] = n + g[C + c] * (hh[c] - n);
        }
      }
      memcpy(h + ((t + 1) * R + first) * C, state, rows * C * sizeof(float));
    }
  }
}

/* grad [T, R, C] of the outputs; gates, h, m of the forward pass; w [3C, C]; writes dx [T, R, 3C] (gates' gradient as the
   input sees it), dm [T, R, C] (candidate's as the state sees it) and dh [R, C] (of the initial state; holds the last one's). */
void gru_backward(long T, long R, int C, const float *grad, const float *gates, const float *h, const float *m, const float *w,
                  float *dx, float *dm, float *dh) {
  float d[ROWS * C], du[ROWS * 3 * C];
  memset(du, 0, sizeof du);
  for (long first = 0; first < R; first += ROWS) {
    int rows = R - first < ROWS ? R - first : ROWS;
    memset(d, 0, sizeof d);
    memcpy(d, dh + first * C, rows * C * sizeof(float));
    for (long t = T - 1; t >= 0; t--) {
      for (int row = 0; row < rows; row++) {
        long at = t * R + first + row;
        const float *g = gates + at * 3 * C, *hp = h + at * C, *mm = m + at * C, *go = grad + at * C;
        float *out = dx + at * 3 * C, *om = dm + at * C, *dd = d + row * C, *uu = du + row * 3 * C;
#pragma omp simd
        for (int c = 0; c < C; c++) {
          float r = g[c], z = g[C + c], n = g[2 * C + c], now = dd[c] + go[c];
          float dn = now * (1.0f - z) * (1.0f - n * n);
          float dz = now * (hp[c] - n) * z * (1.0f - z);
          float dr = dn * mm[c] * r * (1.0f - r);
          out[c] = uu[c] = dr;
          out[C + c] = uu[C + c] = dz;
          out[2 * C + c] = dn;
          om[c] = uu[2 * C + c] = dn * r;
          dd[c] = now * z;
        }
      }
      multiply(C, 3 * C, du, 3 * C, w, d);
    }
    memcpy(dh + first * C, d, rows * C * sizeof(float));
  }
}

/* y = x + sin²(αx)/α over rows of `width` numbers, α [width] */
void snake_forward(long rows, int width, const float *x, const float *alpha, float *y) {
  float inverse[width];
  for (int i = 0; i < width; i++) inverse[i] = 1.0f / alpha[i];
  for (long r = 0; r < rows; r++, x += width, y += width)
#pragma omp simd
    for (int i = 0; i < width; i++) {
      float s = sinf(alpha[i] * x[i]);
      y[i] = x[i] + s * s * inverse[i];
    }
}

/* dx and, summed over rows, dα [width] (zeroed by the caller) */
void snake_backward(long rows, int width, const float *x, const float *alpha, const float *grad, float *dx, float *dalpha) {
  float inverse[width];
  for (int i = 0; i < width; i++) inverse[i] = 1.0f / alpha[i];
  for (long r = 0; r < rows; r++, x += width, grad += width, dx += width)
#pragma omp simd
    for (int i = 0; i < width; i++) {
      float phase = alpha[i] * x[i];
      float s = sinf(phase), c = sinf(phase + 1.57079633f), both = 2.0f * s * c;  /* GCC joins sin and cos, then cannot vectorise */
      dx[i] = grad[i] * (1.0f + both);
      dalpha[i] += grad[i] * (both * x[i] - s * s * inverse[i]) * inverse[i];
    }
}
