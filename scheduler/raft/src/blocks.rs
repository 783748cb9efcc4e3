//! Bytes in blocks, each with a checksum that also says which block it is, and a checksum of the whole file at the end.
//!
//! What a reader hands out was checked before, so that damage is found at its place and never decoded; a file that was cut
//! anywhere, or that goes on after its end, is told from a whole one.
//!
//! `[length u32 LE][CRC-32 of block number and payload, u32 LE][payload]`*, then a length of 0 and the CRC-32 of everything
//! in the file before it.

use std::io::{self, Read, Write};

/// Bytes of payload in a block: small enough that "the block at byte N" is a place, large enough that 8 bytes more are nothing.
const BLOCK_BYTES: usize = 256 << 10;
/// Bound on what a length field may say; a longer one is damage.
const BLOCK_BYTES_MAX: usize = 1 << 20;

fn block_crc(number: u64, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&number.to_le_bytes());
    crc.update(payload);
    crc.finalize()
}

fn damaged(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Writes blocks.
pub struct BlockWriter<W: Write> {
    out: W,
    whole: crc32fast::Hasher,
    len: u64,
    number: u64,
    block: Vec<u8>,
}

impl<W: Write> BlockWriter<W> {
    /// Begins a file with these first bytes, which are in no block but in the checksum of the whole.
    pub fn begin(mut out: W, magic: &[u8]) -> io::Result<Self> {
        out.write_all(magic)?;
        let mut whole = crc32fast::Hasher::new();
        whole.update(magic);
        Ok(Self {
            out,
            whole,
            len: magic.len() as u64,
            number: 0,
            block: Vec::with_capacity(BLOCK_BYTES),
        })
    }

    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.whole.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Ends the current block early, so that what was written so far can be read without what follows.
    pub fn cut(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let block = std::mem::take(&mut self.block);
        let crc = block_crc(self.number, &block);
        self.raw(&(block.len() as u32).to_le_bytes())?;
        self.raw(&crc.to_le_bytes())?;
        self.raw(&block)?;
        self.number += 1;
        self.block = block;
        self.block.clear();
        Ok(())
    }

    /// Ends the file. Answers the writer, the length of the file and the checksum of everything but its last four bytes.
    pub fn finish(mut self) -> io::Result<(W, u64, u32)> {
        self.cut()?;
        self.raw(&0u32.to_le_bytes())?;
        let crc = self.whole.clone().finalize();
        self.out.write_all(&crc.to_le_bytes())?;
        Ok((self.out, self.len + 4, crc))
    }
}

impl<W: Write> Write for BlockWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = buf.len().min(BLOCK_BYTES - self.block.len());
        self.block.extend_from_slice(&buf[..n]);
        if self.block.len() == BLOCK_BYTES {
            self.cut()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Reads what [`BlockWriter`] wrote.
pub struct BlockReader<R: Read> {
    input: R,
    whole: crc32fast::Hasher,
    /// Offset in the file.
    at: u64,
    number: u64,
    block: Vec<u8>,
    pos: usize,
    ended: Option<u32>,
}

impl<R: Read> BlockReader<R> {
    /// Goes on behind the first bytes, which the caller has read and understood.
    pub fn after(input: R, magic: &[u8]) -> Self {
        let mut whole = crc32fast::Hasher::new();
        whole.update(magic);
        Self {
            input,
            whole,
            at: magic.len() as u64,
            number: 0,
            block: Vec::new(),
            pos: 0,
            ended: None,
        }
    }

    fn exact(&mut self, buf: &mut [u8], block: u64) -> io::Result<()> {
        self.input.read_exact(buf).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => {
                damaged(format!("the file ends inside the block at byte {block}"))
            }
            _ => io::Error::new(e.kind(), format!("at byte {}: {e}", self.at)),
        })?;
        self.whole.update(buf);
        self.at += buf.len() as u64;
        Ok(())
    }

    fn next(&mut self) -> io::Result<()> {
        let start = self.at;
        let mut word = [0u8; 4];
        self.exact(&mut word, start)?;
        let len = u32::from_le_bytes(word) as usize;
        (self.pos, self.block) = (0, std::mem::take(&mut self.block));
        self.block.clear();
        if len == 0 {
            let crc = self.whole.clone().finalize();
            self.exact(&mut word, start)?;
            if crc != u32::from_le_bytes(word) {
                return Err(damaged(format!(
                    "the checksum at its end (byte {}) does not match",
                    self.at - 4
                )));
            }
            self.ended = Some(crc);
            return Ok(());
        }
        if len > BLOCK_BYTES_MAX {
            return Err(damaged(format!(
                "the block at byte {start} claims {len} bytes"
            )));
        }
        self.exact(&mut word, start)?;
        let mut block = std::mem::take(&mut self.block);
        block.resize(len, 0);
        self.exact(&mut block, start)?;
        self.block = block;
        if block_crc(self.number, &self.block) != u32::from_le_bytes(word) {
            return Err(damaged(format!(
                "the block at byte {start} does not match its checksum"
            )));
        }
        self.number += 1;
        Ok(())
    }

    /// Checks that everything was read, that the checksum of the whole matches and that nothing follows. Answers the
    /// length of the file and that checksum.
    pub fn finish(mut self) -> io::Result<(u64, u32)> {
        let mut one = [0u8];
        if self.read(&mut one)? != 0 {
            return Err(damaged(format!(
                "there is more in the block before byte {} than belongs there",
                self.at
            )));
        }
        if self.input.read(&mut one)? != 0 {
            return Err(damaged(format!(
                "the file goes on after its end at byte {}",
                self.at
            )));
        }
        match self.ended {
            Some(crc) => Ok((self.at, crc)),
            None => Err(damaged("the file has no end".into())),
        }
    }
}

impl<R: Read> Read for BlockReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if self.pos == self.block.len() && self.ended.is_none() {
            self.next()?;
        }
        let n = buf.len().min(self.block.len() - self.pos);
        buf[..n].copy_from_slice(&self.block[self.pos..self.pos + n]);
        self.pos += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(payload: &[u8]) -> Vec<u8> {
        let mut w = BlockWriter::begin(Vec::new(), b"MAGIC").unwrap();
        w.write_all(&payload[..payload.len() / 3]).unwrap();
        w.cut().unwrap();
        w.write_all(&payload[payload.len() / 3..]).unwrap();
        let (bytes, len, crc) = w.finish().unwrap();
        assert_eq!(len, bytes.len() as u64);
        assert_eq!(crc, crc32fast::hash(&bytes[..bytes.len() - 4]));
        bytes
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut r = BlockReader::after(bytes, b"MAGIC");
        let mut out = Vec::new();
        r.read_to_end(&mut out)?;
        r.finish()?;
        Ok(out)
    }

    #[test]
    fn what_was_written_is_read_and_no_flipped_bit_cut_or_addition_passes() {
        for size in [0, 1, 3, 700, BLOCK_BYTES * 2 + 5] {
            let payload: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let whole = file(&payload);
            let after = &whole[5..];
            assert_eq!(read(after).unwrap(), payload);
            let step = (after.len() / 400).max(1);
            for at in (0..after.len()).step_by(step) {
                let mut flipped = after.to_vec();
                flipped[at] ^= 1 << (at % 8);
                assert!(read(&flipped).is_err(), "size {size}, bit flip at {at}");
                assert!(read(&after[..at]).is_err(), "size {size}, cut at {at}");
            }
            assert!(read(&[after, b"x"].concat()).is_err());
        }
    }

    #[test]
    fn exchanged_blocks_are_found() {
        let mut w = BlockWriter::begin(Vec::new(), b"MAGIC").unwrap();
        for text in [b"one", b"two"] {
            w.write_all(text).unwrap();
            w.cut().unwrap();
        }
        let (bytes, ..) = w.finish().unwrap();
        let (a, b) = (bytes[5..16].to_vec(), bytes[16..27].to_vec());
        let exchanged = [&b[..], &a, &bytes[27..]].concat();
        let error = read(&exchanged).unwrap_err().to_string();
        assert!(error.contains("byte 5"), "{error}");
    }
}
