//! Any bytes as a recording: read, told about and converted, without a panic, in bounded memory.

use std::io::{Cursor, Error, ErrorKind, Result};

use shmesh::bag::{BagReader, Config, Converter, Recorder, Storage, Summary, Target, To};

/// A disk of so many bytes.
#[derive(Clone, Copy, Debug)]
struct Disk(usize);

#[derive(Debug)]
struct Kept(Vec<u8>, usize);

impl Target for Disk {
    type Storage = Kept;
    fn open(&mut self, _: u32) -> Result<Kept> {
        Ok(Kept(Vec::new(), self.0))
    }
}

impl Storage for Kept {
    fn append(&mut self, pieces: &[&[u8]]) -> Result<()> {
        for piece in pieces {
            let room = self.1 - self.0.len();
            self.0.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.len() > room {
                return Err(Error::from(ErrorKind::StorageFull));
            }
        }
        Ok(())
    }

    fn cut(&mut self, len: u64) -> Result<()> {
        self.0.truncate(len as usize);
        Ok(())
    }
}

/// The first byte chooses the size of the disk that it is written to again.
pub fn run(input: &[u8]) {
    let Some((first, bytes)) = input.split_first() else {
        return;
    };
    let allocated = allocation_counter::measure(|| look(*first, bytes)).bytes_max;
    // Numbers of channels are an index, schemas are copied, and LZ4 has a most it can grow by.
    let most = (64 << 20) + 2_000 * input.len() as u64;
    assert!(allocated <= most, "{allocated} bytes for {}", input.len());
}

fn look(first: u8, bytes: &[u8]) {
    let len = bytes.len() as u64;
    for is_thorough in [false, true] {
        if let Ok(summary) = Summary::read(&mut Cursor::new(bytes), len, is_thorough) {
            let _ = (summary.messages, format!("{summary:?}"));
        }
    }
    let Ok(mut reader) = BagReader::new(bytes, len) else {
        return;
    };
    let config = Config {
        is_compressed: first.is_multiple_of(2),
        ..Config::default()
    };
    let disk = Disk(usize::from(first) * 64);
    if let Ok(mut recorder) = Recorder::new(config, disk) {
        let to = [To::Same, To::Json][usize::from(first.is_multiple_of(3))];
        let converted = Converter::new(to).add(&mut reader, &mut recorder);
        let _ = converted.and_then(|_| recorder.finish());
    }
}
