"""Sound for the WaveNet: reading a WAV file, and pictures of what was generated. Notebook 09."""

import struct
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.io import wavfile
from scipy.signal import find_peaks, resample_poly

import helpers
from course.plots import COLORS, finished


def read_wav(wav_file, rate, seconds):
    """A WAV file's first `seconds`: one channel, `rate` samples a second, at most 0.9 in size."""
    path = helpers.find_file(wav_file, "a WAV file")
    try:
        with warnings.catch_warnings(action="ignore"):     # it warns of parts that hold no sound
            found, wave = wavfile.read(path)
        wave = wave[: found * seconds].astype(float)
    except (ValueError, EOFError, IndexError, struct.error, ZeroDivisionError) as error:
        raise ValueError(f"{wav_file}: scipy can't read it ({error}); expected a WAV file, saved "
                         "as 16-bit PCM for example") from None
    wave = wave.mean(1) if wave.ndim == 2 else wave        # of its channels
    if len(wave) < 4 * found:
        raise ValueError(f"{wav_file}: {len(wave) / found:.1f} seconds; expected 4 or more")
    if not np.isfinite(wave).all() or wave.min() == wave.max():
        raise ValueError(f"{wav_file}: its samples are all equal, NaN or infinite; expected sound")
    wave = resample_poly(wave - wave.mean(), rate, found)
    return torch.from_numpy(0.9 * wave / np.abs(wave).max()).float()


def split_wave(wave, n_start, n_rest):
    """(what to train on, `n_start` samples, the last `n_rest` samples). Shorter in quick mode."""
    n_start, n_rest = helpers.capped(n_start, 100), helpers.capped(n_rest, 200)
    return wave.split([len(wave) - n_start - n_rest, n_start, n_rest])


def in_phase(real, made, rate, least=0.9):
    """Milliseconds until, over 20 ms, `made` correlates with `real` by less than `least`."""
    n = rate // 50
    for i in range(0, len(real) - n + 1, n // 4):
        a, b = (x[i : i + n] - x[i : i + n].mean() for x in (real, made))
        if not a @ b >= least * np.sqrt((a @ a) * (b @ b)):
            return 1000 * (i + n / 2) / rate
    return 1000 * len(real) / rate


def draw_sound(start, real, made, rate):
    """The real continuation of `start` and the generated one: the join, both in full, spectra."""
    fig, axes = plt.subplot_mosaic([["join", "join", "spectra"], ["all", "all", "spectra"]],
                                   figsize=(9, 4.4))
    peaks, (start, real, made) = [], map(np.asarray, (start, real, made))
    for label, wave, color in (("real", real, COLORS[0]), ("generated", made, COLORS[1])):
        whole = np.concatenate([start, wave])
        t = (np.arange(len(whole)) - len(start)) / rate
        near = (t >= -0.01) & (t < 0.05)
        axes["join"].plot(1000 * t[near], whole[near], color=color, lw=1.2, label=label)
        axes["all"].plot(t, whole - 2.2 * (label == "generated"), color=color, lw=0.4)
        size = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
        size = 20 * np.log10(size / size.max() + 1e-4)
        frequency = np.fft.rfftfreq(len(wave), 1 / rate)
        axes["spectra"].plot(frequency, size, color=color, lw=0.8, label=label)
        found, height = find_peaks(size, height=-30, distance=max(1, 40 * len(wave) // rate))
        best = found[np.argsort(-height["peak_heights"])[:3]]
        peaks.append(", ".join(f"{f:.0f}" for f in sorted(frequency[best])))
    axes["join"].set(xlabel="ms after the start", yticks=[])
    together = in_phase(real, made, rate)
    axes["join"].set_title(f"Together for {together:,.0f} ms; the first 50", size=11)
    axes["join"].legend(loc="lower right", bbox_to_anchor=(1, 0.96), ncols=2)
    axes["all"].set(xlabel="seconds: real above, generated below", yticks=[])
    axes["spectra"].set(xlabel="Hz", ylabel="dB", ylim=(-40, 3), xlim=(0, 1200))
    axes["spectra"].set_title(f"Strongest, real: {peaks[0]} Hz\ngenerated: {peaks[1]} Hz", size=10)
    return finished(fig)
