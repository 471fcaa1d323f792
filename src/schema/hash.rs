//! A number that is the same for schemas of the same names and layouts.
//!
//! It must not depend on the order of the table, nor on types that are in it twice (a `Vec<T>` and
//! a `Box<[T]>` are one to a reader). So each type gets a colour from what is said of itself, then
//! again and again one from its colour and those of the types it refers to, until no two types
//! that had the same colour get different ones. Then types have the same colour if nothing tells
//! them apart, however deep one looks; this is how automata are made smaller. The colours of two
//! tables say nothing of each other yet, for they look no deeper than their table needs: what is
//! hashed is the table of the colours, in the order in which one meets them.

use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};

use super::{Kind, Parts, Place, Type};

type Colour = [u8; 32];

pub(super) fn hash(parts: &Parts) -> u64 {
    let own: Vec<_> = parts.types.iter().map(own).collect();
    let mut colours = own.clone();
    let mut count = 0;
    loop {
        let types = parts.types.iter().zip(&own);
        colours = types.map(|(ty, own)| next(ty, own, &colours)).collect();
        let now = colours.iter().collect::<HashSet<_>>().len();
        if now == count {
            break;
        }
        count = now;
    }
    let mut digest = Paint(Sha256::new());
    digest.table(parts, &own, &colours);
    digest.number(u32::from(parts.format.is_big_endian));
    digest.number(u32::from(parts.format.align));
    digest.number(u32::from(parts.format.pointer_bytes));
    let whole: Colour = digest.0.finalize().into();
    let mut first = [0; 8];
    first.copy_from_slice(&whole[..8]);
    // 0 is for encodings that need no schema.
    u64::from_le_bytes(first).max(1)
}

/// What a type says of itself.
fn own(ty: &Type) -> Colour {
    let mut paint = Paint(Sha256::new());
    paint.text(&ty.name);
    paint.number(ty.size);
    paint.number(ty.align);
    paint.own(&ty.kind);
    let places = ty.places().into_iter();
    places.for_each(|place| paint.number(place.offset));
    paint.0.finalize().into()
}

/// The same, with what is known of the types it refers to.
fn next(ty: &Type, own: &Colour, colours: &[Colour]) -> Colour {
    let mut paint = Paint(Sha256::new());
    paint.bytes(own);
    for Place { ty, .. } in ty.places() {
        paint.bytes(&colours[ty as usize]);
    }
    for ty in ty.pointed_to() {
        paint.bytes(&colours[ty as usize]);
    }
    paint.0.finalize().into()
}

struct Paint(Sha256);

impl Paint {
    /// One type of each colour, from the message's on.
    fn table(&mut self, parts: &Parts, own: &[Colour], colours: &[Colour]) {
        let mut met = vec![parts.root as usize];
        let mut numbers = HashMap::from([(colours[met[0]], 0)]);
        let mut next = 0;
        while let Some(&number) = met.get(next) {
            next += 1;
            self.bytes(&own[number]);
            let ty = &parts.types[number];
            let inner = ty.places().into_iter().map(|place| place.ty);
            for inner in inner.chain(ty.pointed_to()) {
                let inner = inner as usize;
                let number = *numbers.entry(colours[inner]).or_insert_with(|| {
                    met.push(inner);
                    met.len() - 1
                });
                self.count(number);
            }
        }
    }

    /// What a kind says without the types it refers to.
    fn own(&mut self, kind: &Kind) {
        match kind {
            Kind::Scalar(scalar) => self.words(0, scalar.name()),
            Kind::NonZero(scalar) => self.words(1, scalar.name()),
            Kind::String => self.number(2),
            Kind::Str => self.number(3),
            Kind::Duration => self.number(4),
            Kind::Struct(fields) => {
                self.number(5);
                self.fields(fields);
            }
            Kind::Enum(variants) => {
                self.number(6);
                self.count(variants.len());
                for variant in variants {
                    self.words(u32::from(variant.tag), &variant.name);
                    self.fields(&variant.fields);
                }
            }
            Kind::Option(_) => self.number(7),
            Kind::List(_) => self.number(8),
            Kind::Array { len, .. } => {
                self.number(9);
                self.number(*len);
            }
            Kind::Box(_) => self.number(10),
            Kind::Map(entry) => {
                let Place { offset: key, .. } = entry.key;
                let Place { offset: value, .. } = entry.value;
                let numbers = [11, entry.size, entry.align, key, value];
                numbers.into_iter().for_each(|number| self.number(number));
            }
            Kind::Opaque => self.number(12),
            Kind::Shared(_) => self.number(13),
            Kind::Set(entry) => {
                let Place { offset, .. } = entry.key;
                let numbers = [14, entry.size, entry.align, offset];
                numbers.into_iter().for_each(|number| self.number(number));
            }
            Kind::TreeMap { .. } => self.number(15),
            Kind::TreeSet(_) => self.number(16),
            Kind::Weak(_) => self.number(17),
        }
    }

    fn fields(&mut self, fields: &super::Fields) {
        self.number(fields.shape as u32);
        self.count(fields.list.len());
        fields.list.iter().for_each(|field| self.text(&field.name));
    }

    fn words(&mut self, number: u32, text: &str) {
        self.number(number);
        self.text(text);
    }

    /// With its length, so that no two texts run into each other.
    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.bytes(text.as_bytes());
    }

    fn count(&mut self, count: usize) {
        self.number(u32::try_from(count).unwrap_or(u32::MAX));
    }

    fn number(&mut self, number: u32) {
        self.bytes(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}
