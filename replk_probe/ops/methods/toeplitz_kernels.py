"""Triton kernels of the depthwise convolution as a matrix product with Toeplitz matrices.

Rows of the product are image rows of one channel, of several images; columns are ``BN`` neighboring output pixels. They
share one Toeplitz matrix ``T`` for each row ``kh`` of the kernel. With ``u = start - w0 + KW // 2``::

    y[n, h, w0 + j] = sum_kh sum_k x[n, h + kh - KH // 2, start + k] * T_kh[k, j],    T_kh[k, j] = w[kh, u + k - j]

The gradient of the weight is the product of the same windows with the gradient of the output, summed along diagonals::

    D_kh[j, k] = sum_{n, h, w0} grad[n, h, w0 + j] * x[n, h + kh - KH // 2, start + k],    dw[kh, kw] = sum_j D_kh[j, k]

Rows start at multiples of ``VEC`` elements, 16 bytes, so planes are copied to shared memory 16 bytes at a time; ``T``
absorbs any shift. Strides between images, channels and rows are given in units of ``VEC``, which tells the compiler
about it. Sums have a fixed order, and no kernel uses atomic operations.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["total"])
def spread_weights(
    weight,  # [C, KH, KW]
    table,  # [C, KH + 2 * (GROUP - 1), VEC, LENGTH]
    total,  # number of elements of the table
    KH: tl.constexpr,
    KW: tl.constexpr,
    GROUP: tl.constexpr,
    VEC: tl.constexpr,
    OFFSET: tl.constexpr,
    LENGTH: tl.constexpr,
    FLIP: tl.constexpr,  # whether the kernel is rotated by 180 degrees, for the gradient of the input
    BLOCK: tl.constexpr,
):
    """``table[c, kh + GROUP - 1, s, i] = w[c, kh, i + s - OFFSET]``, zero outside of the kernel.

    The copies, each shifted by one element, make every row of a Toeplitz matrix start at a multiple of 16 bytes in one
    of them, so that it is copied as planes are, with no instructions to assemble it.
    """
    ROWS: tl.constexpr = KH + 2 * (GROUP - 1)
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row = index // (VEC * LENGTH)
    rest = (index % (VEC * LENGTH)).to(tl.int32)
    kh = (row % ROWS).to(tl.int32) - (GROUP - 1)
    kw = rest % LENGTH + rest // LENGTH - OFFSET
    inside = (index < total) & (kh >= 0) & (kh < KH) & (kw >= 0) & (kw < KW)
    tap = (KH - 1 - kh) * KW + (KW - 1 - kw) if FLIP else kh * KW + kw
    taps = tl.load(weight + (row // ROWS) * (KH * KW) + tap, mask=inside, other=0.0)
    tl.store(table + index, taps, mask=index < total)


@triton.jit(do_not_specialize=["N", "H", "XW", "YW", "XN", "XC", "XH", "YN", "YC", "YH"])
def convolve(
    x,
    table,  # of `spread_weights`
    bias,
    y,
    N,
    H,
    XW,  # width of the planes of x in units of VEC; zeros from their own width on
    XN,  # strides of x in units of VEC
    XC,
    XH,
    YW,  # width of the planes of y in units of YVEC
    YN,  # strides of y in units of YVEC
    YC,
    YH,
    KH: tl.constexpr,
    KW: tl.constexpr,
    GROUP: tl.constexpr,  # output rows for which a row of x is loaded once
    NB: tl.constexpr,  # images of a tile
    BM: tl.constexpr,  # a tile has BM * GROUP rows: BM // NB * GROUP rows of each image
    BN: tl.constexpr,
    BK: tl.constexpr,  # a window has BK * CHUNKS pixels
    CHUNKS: tl.constexpr,
    LEAD: tl.constexpr,  # the window starts LEAD pixels left of the tile, or with WHOLE, at 0
    WHOLE: tl.constexpr,
    VEC: tl.constexpr,
    YVEC: tl.constexpr,
    OFFSET: tl.constexpr,
    LENGTH: tl.constexpr,
    BIAS: tl.constexpr,
    RELU: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Convolution with bias and ReLU; with a table of rotated kernels, the gradient of the input.

    Row i of a tile is row ``h0 + i * GROUP + s`` of x in step ``s``, and GROUP rows of y from ``h0 + i * GROUP`` on.
    """
    PH: tl.constexpr = KH // 2
    PW: tl.constexpr = KW // 2
    ROWS: tl.constexpr = BM // NB
    h_tiles = (H + ROWS * GROUP - 1) // (ROWS * GROUP)
    w_tiles = (YW * YVEC + BN - 1) // BN
    n_tiles = (N + NB - 1) // NB
    pid = tl.program_id(0)
    h0 = (pid % h_tiles) * (ROWS * GROUP)
    pid = pid // h_tiles
    w0 = (pid % w_tiles) * BN
    pid = pid // w_tiles
    n0 = (pid % n_tiles) * NB
    c = (pid // n_tiles).to(tl.int64)

    m = tl.arange(0, BM)
    h = h0 + m // NB * GROUP
    n = n0 + m % NB
    is_image = n < N
    start = 0 if WHOLE else w0 - LEAD
    k = tl.arange(0, BK)
    jj = tl.arange(0, GROUP * BN)
    r = jj // BN
    j = jj % BN
    # Row (r, j) of the transposed matrix starts at element `first` of a padded kernel row, so in copy `first % VEC`.
    first = (start - w0) + (PW + OFFSET) - j
    t_offset = (first % VEC) * LENGTH + (first // VEC) * VEC + (PH + GROUP - 1 - r) * (VEC * LENGTH)

    # Steps in which some row of the tile is in the plane.
    low = -tl.minimum(tl.minimum(h0 + (ROWS - 1) * GROUP, H - 1), PH)
    high = tl.minimum(H - h0, PH + GROUP)
    height = H.to(tl.uint32)
    width = (XW * VEC).to(tl.uint32)
    x_row = x + (n.to(tl.int64) * XN + c * XC + (h + low).to(tl.int64) * XH) * VEC
    t_row = table + (c * (KH + 2 * (GROUP - 1)) + low) * (VEC * LENGTH)
    acc = tl.full((BM, GROUP * BN), 0.0, dtype=tl.float32)
    for s in range(low, high):
        # Negative numbers are large unsigned ones: a single comparison for both ends.
        ok = is_image & ((h + s).to(tl.uint32) < height)
        for q in tl.static_range(CHUNKS):
            col = start + q * BK + k
            in_plane = ok[:, None] & (col.to(tl.uint32) < width)[None, :]
            a = tl.load(x_row[:, None] + col[None, :], mask=in_plane, other=0.0)
            t = tl.load(t_row + (t_offset[:, None] + (q * BK + k)[None, :]))
            acc = tl.dot(a, tl.trans(t), acc, input_precision=PRECISION)
        x_row += XH.to(tl.int64) * VEC
        t_row += VEC * LENGTH
    if BIAS:
        acc += tl.load(bias + c).to(tl.float32)
    if RELU:
        acc = tl.where(acc < 0, 0.0, acc)  # a NaN stays
    y_row = y + (n.to(tl.int64) * YN + c * YC + h.to(tl.int64) * YH) * YVEC
    target = y_row[:, None] + (r.to(tl.int64) * YH * YVEC + (w0 + j))[None, :]
    inside = is_image[:, None] & ((h[:, None] + r[None, :]) < H) & ((w0 + j) < YW * YVEC)[None, :]
    tl.store(target, acc.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["N", "C", "H", "XW", "XN", "XC", "XH", "GN", "GC", "GH", "SPLITS"])
def correlate(
    x,
    g,
    dw,  # [SPLITS, CHUNKS, C, KH, KW]
    N,
    C,
    H,
    XW,  # width of the planes in units of VEC; zeros from their own width on
    XN,  # strides in units of VEC
    XC,
    XH,
    GN,
    GC,
    GH,
    SPLITS,
    KH: tl.constexpr,
    KW: tl.constexpr,
    KWP: tl.constexpr,  # KW rounded up to a power of two
    GROUP: tl.constexpr,  # kernel rows of a program
    NB: tl.constexpr,  # a tile has BM rows: BM // NB rows of each of NB images
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    CHUNKS: tl.constexpr,
    LEAD: tl.constexpr,  # the window of a tile starts LEAD pixels left of it
    VEC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradient of the weight: one program adds up the ``D`` of ``GROUP`` kernel rows, then their diagonals.

    A window of x is loaded once for all rows of the group. All index arithmetic but the carry of three counters and
    one comparison for each row is done before the loop.
    """
    PH: tl.constexpr = KH // 2
    PW: tl.constexpr = KW // 2
    ROWS: tl.constexpr = BM // NB
    GROUPS: tl.constexpr = (KH + GROUP - 1) // GROUP
    pid = tl.program_id(0)
    kh0 = (pid % GROUPS) * GROUP
    pid = pid // GROUPS
    q = pid % CHUNKS
    pid = pid // CHUNKS
    split = pid % SPLITS
    c = (pid // SPLITS).to(tl.int64)

    # Rows of x that meet a row of the gradient for some kernel row of the group.
    h_low = tl.maximum(kh0 - PH, 0)
    h_high = tl.minimum(H + (kh0 + GROUP - 1) - PH, H)
    h_tiles = (tl.maximum(h_high - h_low, 0) + ROWS - 1) // ROWS
    n_tiles = (N + NB - 1) // NB
    w_tiles = (XW * VEC + BN - 1) // BN
    tiles = h_tiles * n_tiles * w_tiles
    each = (tiles + SPLITS - 1) // SPLITS
    begin = split * each
    h_tile = begin % tl.maximum(h_tiles, 1)
    n_tile = begin // tl.maximum(h_tiles, 1) % n_tiles
    w_tile = begin // tl.maximum(h_tiles * n_tiles, 1)

    m = tl.arange(0, BM)
    k = tl.arange(0, BK)
    jj = tl.arange(0, GROUP * BN)
    r = jj // BN
    height = H.to(tl.uint32)
    width = (XW * VEC).to(tl.uint32)
    m_row = h_low + m // NB
    m_image = m % NB
    x_tile = x + (c * XC + m_image.to(tl.int64) * XN + m_row.to(tl.int64) * XH)[:, None] * VEC
    x_tile += (k + (q * BK - LEAD))[None, :]
    g_tile = g + (c * GC + m_image.to(tl.int64) * GN + (m_row - kh0 + PH).to(tl.int64) * GH)[:, None] * VEC
    g_tile += ((jj % BN) - r.to(tl.int64) * GH * VEC)[None, :]
    g_row = (m_row - kh0 + PH)[:, None] - r[None, :]
    acc = tl.full((GROUP * BN, BK), 0.0, dtype=tl.float32)
    for _ in range(begin, tl.minimum(begin + each, tiles)):
        h = h_tile * ROWS
        n = (n_tile * NB).to(tl.int64)
        w0 = w_tile * BN
        is_image = (m_image + n_tile * NB) < N
        x_ok = (is_image & ((m_row + h) < H))[:, None] & ((k + (w0 + q * BK - LEAD)).to(tl.uint32) < width)[None, :]
        g_ok = is_image[:, None] & ((g_row + h).to(tl.uint32) < height)
        g_ok = g_ok & ((jj % BN + w0).to(tl.uint32) < width)[None, :]
        xs = tl.load(x_tile + ((n * XN + h.to(tl.int64) * XH) * VEC + w0), mask=x_ok, other=0.0)
        gs = tl.load(g_tile + ((n * GN + h.to(tl.int64) * GH) * VEC + w0), mask=g_ok, other=0.0)
        acc = tl.dot(tl.trans(gs), xs, acc, input_precision=PRECISION)
        h_tile += 1
        carry = h_tile == h_tiles
        h_tile = tl.where(carry, 0, h_tile)
        n_tile = tl.where(carry, n_tile + 1, n_tile)
        carry = n_tile == n_tiles
        n_tile = tl.where(carry, 0, n_tile)
        w_tile = tl.where(carry, w_tile + 1, w_tile)
    # Tap kw of row j is element k = kw + j + LEAD - PW - q * BK of D.
    kw = tl.arange(0, KWP)
    index = kw[None, :] + ((jj % BN) + (LEAD - PW) - q * BK)[:, None]
    valid = (index >= 0) & (index < BK)
    taps = tl.where(valid, tl.gather(acc, tl.where(valid, index, 0), axis=1), 0.0)
    sums = tl.sum(tl.reshape(taps, (GROUP, BN, KWP)), axis=1)
    kh = kh0 + tl.arange(0, GROUP)
    target = dw + (((split * CHUNKS + q).to(tl.int64) * C + c) * KH + kh)[:, None] * KW + kw[None, :]
    tl.store(target, sums.to(dw.dtype.element_ty), mask=(kh < KH)[:, None] & (kw < KW)[None, :])
