//! `#[derive(Message)]`: says what the archive of a type looks like, so that tools which were not
//! compiled with the type can read it.
//!
//! The macro writes down names, comments and where fields lie; everything else, as what a type of
//! the standard library looks like, is in `shmesh::schema`.

mod attributes;
mod expand;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Describes a message, beside rkyv's derives.
///
/// ```ignore
/// #[derive(Archive, Serialize, Message)]
/// #[rkyv(crate = shmesh::rkyv)]
/// struct Drive {
///     /// Along the robot's axis.
///     #[message(unit = "m/s")]
///     speed: f64,
///     #[message(opaque)]
///     cookie: Foreign,
/// }
/// ```
///
/// | attribute | of | says |
/// |---|---|---|
/// | `unit = "m/s"` | a field | what a number of it is |
/// | `opaque` | a field or type | tools know its size only; for foreign types and rkyv's `with` |
/// | `crate = path` | a type | where shmesh is, if not at `::shmesh` |
#[proc_macro_derive(Message, attributes(message))]
pub fn message(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let expanded = expand::expand(&input);
    expanded
        .unwrap_or_else(|error| error.to_compile_error())
        .into()
}
