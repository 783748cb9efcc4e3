//! New inputs out of old ones, as libFuzzer makes them but without looking at coverage.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Longest input made; most bugs need far less.
const INPUT_BYTES_MAX: usize = 4_096;

/// An endless row of inputs, the same for the same seed.
pub(super) struct Mutator<'a> {
    rng: StdRng,
    seeds: &'a [Vec<u8>],
    words: &'a [&'a str],
}

impl<'a> Mutator<'a> {
    /// Mutations of `seeds` (at least one) with `words` put in.
    pub(super) fn new(seeds: &'a [Vec<u8>], words: &'a [&'a str], seed: u64) -> Mutator<'a> {
        Mutator {
            rng: StdRng::seed_from_u64(seed),
            seeds,
            words,
        }
    }

    /// The next input: a seed with one change, half of them with a second one, a quarter with a third.
    pub(super) fn input(&mut self) -> Vec<u8> {
        let mut input = self.any_seed();
        loop {
            self.change(&mut input);
            input.truncate(INPUT_BYTES_MAX);
            if self.rng.random_bool(0.5) {
                return input;
            }
        }
    }

    fn any_seed(&mut self) -> Vec<u8> {
        self.seeds[self.rng.random_range(0..self.seeds.len())].clone()
    }

    /// A place in `input` where something can be put in.
    fn place(&mut self, input: &[u8]) -> usize {
        self.rng.random_range(0..=input.len())
    }

    /// A stretch of `input`, often short, empty only if the input is.
    fn stretch(&mut self, input: &[u8]) -> std::ops::Range<usize> {
        if input.is_empty() {
            return 0..0;
        }
        let start = self.rng.random_range(0..input.len());
        let longest = input.len() - start;
        let longest = if self.rng.random_bool(0.7) {
            longest.min(8)
        } else {
            longest
        };
        start..start + self.rng.random_range(1..=longest)
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        match self.rng.random_range(0..9) {
            0 => {
                let stretch = self.stretch(input);
                input.drain(stretch);
            }
            1 => {
                let copied = input[self.stretch(input)].to_vec();
                let at = self.place(input);
                input.splice(at..at, copied);
            }
            2 => {
                let at = self.place(input);
                input.insert(at, self.rng.random());
            }
            3 => {
                for at in self.stretch(input) {
                    input[at] = self.rng.random();
                }
            }
            4 => {
                let stretch = self.stretch(input);
                if let Some(byte) = input.get_mut(stretch.start) {
                    *byte ^= 1 << self.rng.random_range(0..8);
                }
            }
            // A digit for a digit, a letter for a letter: what keeps most grammars content.
            5 => {
                for at in self.stretch(input) {
                    input[at] = self.alike(input[at]);
                }
            }
            6 => {
                let other = self.any_seed();
                let (head, tail) = (self.place(input), self.place(&other));
                input.truncate(head);
                input.extend_from_slice(&other[tail..]);
            }
            _ => {
                let Some(last) = self.words.len().checked_sub(1) else {
                    return;
                };
                let word = self.words[self.rng.random_range(0..=last)].bytes();
                let at = self.place(input);
                let replaced = if self.rng.random_bool(0.5) {
                    at..at
                } else {
                    at..(at + word.len()).min(input.len())
                };
                input.splice(replaced, word);
            }
        }
    }

    fn alike(&mut self, byte: u8) -> u8 {
        match byte {
            b'0'..=b'9' => self.rng.random_range(b'0'..=b'9'),
            b'a'..=b'f' => self.rng.random_range(b'a'..=b'f'),
            b'g'..=b'z' => self.rng.random_range(b'g'..=b'z'),
            b'A'..=b'Z' => self.rng.random_range(b'A'..=b'Z'),
            other => other.wrapping_add(1),
        }
    }
}
