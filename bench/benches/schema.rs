//! What it costs to read and write a message by its schema: JSON out of the archive of a nested
//! message of 1 kB and back, beside `serde_json` with the same Rust value.
//!
//! `cargo bench -p shmesh-bench --bench schema`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use shmesh::Message;
use shmesh::rkyv::{Archive, Serialize, rancor, to_bytes};
use shmesh::schema::{Reader, Schema, Writer};

#[derive(Archive, Serialize, Message, serde::Serialize, serde::Deserialize)]
#[rkyv(crate = shmesh::rkyv)]
struct State {
    stamp_ns: u64,
    frame: String,
    pose: Pose,
    joints: Vec<Joint>,
    battery: Option<Battery>,
}

#[derive(Archive, Serialize, Message, serde::Serialize, serde::Deserialize)]
#[rkyv(crate = shmesh::rkyv)]
struct Pose {
    position: [f64; 3],
    orientation: [f64; 4],
}

#[derive(Archive, Serialize, Message, serde::Serialize, serde::Deserialize)]
#[rkyv(crate = shmesh::rkyv)]
struct Joint {
    name: String,
    #[message(unit = "rad")]
    angle: f64,
    #[message(unit = "rad/s")]
    speed: f64,
    torque: f32,
    limits: (f32, f32),
    mode: Mode,
}

#[derive(Archive, Serialize, Message, serde::Serialize, serde::Deserialize)]
#[rkyv(crate = shmesh::rkyv)]
enum Mode {
    Off,
    Position(f64),
    Torque { limit: f32 },
}

#[derive(Archive, Serialize, Message, serde::Serialize, serde::Deserialize)]
#[rkyv(crate = shmesh::rkyv)]
struct Battery {
    volts: f32,
    charge: u8,
    cells: Vec<u16>,
}

fn state() -> State {
    let joint = |n: u8| Joint {
        name: format!("arm/joint_{n}"),
        angle: f64::from(n) * 0.123_456_789,
        speed: -f64::from(n) / 7.0,
        torque: f32::from(n) * 1.5,
        limits: (-1.57, 1.57),
        mode: match n % 3 {
            0 => Mode::Off,
            1 => Mode::Position(f64::from(n) / 3.0),
            _ => Mode::Torque { limit: 2.5 },
        },
    };
    State {
        stamp_ns: 1_700_000_000_123_456_789,
        frame: "base_link".into(),
        pose: Pose {
            position: [1.0, -2.25, 0.333_333_333],
            orientation: [0.0, 0.0, 0.6, 0.8],
        },
        joints: (0..11).map(joint).collect(),
        battery: Some(Battery {
            volts: 24.7,
            charge: 87,
            cells: (0..24).map(|n| 4000 + n).collect(),
        }),
    }
}

fn schema(c: &mut Criterion) {
    let value = state();
    let archive = to_bytes::<rancor::Error>(&value).unwrap();
    let json = serde_json::to_string(&value).unwrap();
    let schema = Schema::of::<State>().unwrap();
    let reader = Reader::new(Arc::clone(&schema)).unwrap();
    let mut writer = Writer::new(schema).unwrap();
    assert_eq!(reader.json_text(&archive).unwrap(), json);
    assert_eq!(writer.write(&json).unwrap(), &archive[..]);

    let mut group = c.benchmark_group(format!("{} B", archive.len()));
    group.throughput(Throughput::Elements(1));
    let mut text = Vec::with_capacity(2 * json.len());
    group.bench_function("json out by schema", |b| {
        b.iter(|| {
            text.clear();
            reader.json(black_box(&archive), &mut text).unwrap();
            text.len()
        });
    });
    group.bench_function("json out by serde_json", |b| {
        b.iter(|| {
            text.clear();
            serde_json::to_writer(&mut text, black_box(&value)).unwrap();
            text.len()
        });
    });
    group.bench_function("one field by path", |b| {
        b.iter(|| {
            reader
                .read(black_box(&archive))
                .unwrap()
                .at("joints[7].angle")
                .unwrap()
                .as_f64()
        });
    });
    group.bench_function("json in by schema", |b| {
        b.iter(|| writer.write(black_box(&json)).unwrap().len());
    });
    group.bench_function("json in by serde_json, then rkyv", |b| {
        b.iter(|| {
            let value: State = serde_json::from_str(black_box(&json)).unwrap();
            to_bytes::<rancor::Error>(&value).unwrap().len()
        });
    });
    group.finish();
}

criterion_group!(benches, schema);
criterion_main!(benches);
