//! Generated and mutated inputs for what reads foreign bytes: `SIDEHOOK_FUZZ_SECS` long each (2 by default), from the
//! printed seed `SIDEHOOK_FUZZ_SEED`.

mod configs;
mod events;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::support::random::Random;

/// Feeds inputs until the time is over; tells the input that made the check panic.
fn fuzz(name: &str, corpus: &[Vec<u8>], words: &[&str], mut check: impl FnMut(&[u8], &mut Random) -> bool) {
    let seconds = std::env::var("SIDEHOOK_FUZZ_SECS").ok().and_then(|s| s.parse().ok()).unwrap_or(2);
    let mut random = Random::from_env("SIDEHOOK_FUZZ_SEED");
    let (end, mut tried, mut taken) = (Instant::now() + Duration::from_secs(seconds), 0_u64, 0_u64);
    while Instant::now() < end {
        let start = random.index(corpus.len());
        let input = mutate(&corpus[start], corpus, words, &mut random);
        let outcome = catch_unwind(AssertUnwindSafe(|| check(&input, &mut random)));
        match outcome {
            Ok(accepted) => taken += u64::from(accepted),
            Err(panic) => {
                println!(
                    "{name}: input {tried} ({} bytes):\n{}\n{input:?}",
                    input.len(),
                    String::from_utf8_lossy(&input)
                );
                std::panic::resume_unwind(panic);
            }
        }
        tried += 1;
    }
    println!("{name}: {tried} inputs in {seconds} s, {taken} of them accepted");
    assert!(tried > 20, "only {tried} inputs");
    assert!(taken > 0 && taken < tried, "{taken} of {tried} accepted: one side is never reached");
}

/// One to six small damages; now and then none.
fn mutate(input: &[u8], corpus: &[Vec<u8>], words: &[&str], random: &mut Random) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..random.below(7) {
        let at = random.index(bytes.len() + 1);
        let end = (at + random.index(12)).min(bytes.len());
        match random.below(9) {
            0 => drop(bytes.drain(at..end)),
            1 => bytes.truncate(at),
            2 => bytes.insert(at, u8::try_from(random.below(256)).unwrap()),
            3 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            4 => {
                let copy = bytes[at..end].to_vec();
                let to = random.index(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            5 => {
                let other = &corpus[random.index(corpus.len())];
                let from = random.index(other.len() + 1);
                let part = other[from..(from + random.index(40)).min(other.len())].to_vec();
                bytes.splice(at..end, part);
            }
            6 => {
                let word = random.pick(words).as_bytes();
                bytes.splice(at..end, word.iter().copied());
            }
            7 => {
                // Whole lines change places or double.
                let mut lines: Vec<_> = bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
                if lines.len() > 1 {
                    let line = random.pick(&lines).clone();
                    let to = random.index(lines.len());
                    lines.insert(to, line);
                    bytes = lines.concat();
                }
            }
            _ => {
                let unit = random.pick(words).as_bytes();
                let many = unit.repeat(1 + random.index(300));
                bytes.splice(at..at, many);
            }
        }
    }
    bytes
}
