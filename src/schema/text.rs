//! A schema for people: what the types would look like in Rust, with units and comments.

use std::fmt::{self, Display, Formatter};

use super::{Fields, Kind, Schema, Shape, Type};

impl Schema {
    /// What a type is called in Rust: `Vec<f32>`.
    #[must_use]
    pub fn name_of(&self, ty: u32) -> String {
        let mut name = String::new();
        self.push_name(ty, &mut name, 0);
        name
    }

    /// Types without a name may be in themselves, or be very long, in a schema of somebody else's.
    fn push_name(&self, ty: u32, to: &mut String, depth: usize) {
        let Some(ty) = self
            .ty(ty)
            .filter(|_| depth < DEPTH && to.len() < NAME_BYTES)
        else {
            to.push_str("..");
            return;
        };
        if !ty.name.is_empty() {
            to.push_str(&ty.name);
            return;
        }
        let mut generic = |name: &str, inner: &[u32], end: &str| {
            to.push_str(name);
            for (idx, inner) in inner.iter().enumerate() {
                to.push_str(if idx > 0 { ", " } else { "" });
                if to.len() >= NAME_BYTES {
                    break;
                }
                self.push_name(*inner, to, depth + 1);
            }
            to.push_str(end);
        };
        match &ty.kind {
            Kind::Scalar(scalar) => to.push_str(scalar.name()),
            Kind::NonZero(scalar) => {
                to.extend(["NonZero<", scalar.name(), ">"]);
            }
            Kind::String => to.push_str("String"),
            Kind::Str => to.push_str("Box<str>"),
            Kind::Duration => to.push_str("Duration"),
            Kind::Struct(fields) => {
                let inner: Vec<_> = fields.list.iter().map(|field| field.place.ty).collect();
                let end = if inner.len() == 1 { ",)" } else { ")" };
                generic("(", &inner, end);
            }
            Kind::Enum(_) => to.push_str("enum"),
            Kind::Option(some) => generic("Option<", &[some.ty], ">"),
            Kind::List(item) => generic("Vec<", &[*item], ">"),
            Kind::Array { item, len } => generic("[", &[*item], &format!("; {len}]")),
            Kind::Box(inner) => generic("Box<", &[*inner], ">"),
            Kind::Shared(inner) | Kind::Weak(inner) => {
                let name = if matches!(ty.kind, Kind::Weak(_)) {
                    "Weak"
                } else {
                    "Arc"
                };
                match self.ty(*inner).map(|ty| &ty.kind) {
                    Some(Kind::Box(inner)) => generic(&format!("{name}<"), &[*inner], ">"),
                    Some(Kind::List(item)) => generic(&format!("{name}<["), &[*item], "]>"),
                    _ => to.extend([name, "<str>"]),
                }
            }
            Kind::Set(entry) => generic("HashSet<", &[entry.key.ty], ">"),
            Kind::TreeMap { key, value } => generic("BTreeMap<", &[*key, *value], ">"),
            Kind::TreeSet(item) => generic("BTreeSet<", &[*item], ">"),
            Kind::Map(entry) => generic("HashMap<", &[entry.key.ty, entry.value.ty], ">"),
            Kind::Opaque => to.push_str(&format!("[opaque; {}]", ty.size)),
        }
    }

    fn fmt_type(&self, ty: &Type, f: &mut Formatter<'_>) -> fmt::Result {
        fmt_doc(&ty.doc, "", f)?;
        match &ty.kind {
            Kind::Struct(fields) => {
                write!(f, "struct {}", ty.name)?;
                self.fmt_fields(fields, "", f)?;
                let end = if fields.shape == Shape::Named {
                    "\n"
                } else {
                    ";\n"
                };
                f.write_str(end)
            }
            Kind::Enum(variants) => {
                writeln!(f, "enum {} {{", ty.name)?;
                for variant in variants {
                    fmt_doc(&variant.doc, INDENT, f)?;
                    write!(f, "{INDENT}{}", variant.name)?;
                    self.fmt_fields(&variant.fields, INDENT, f)?;
                    f.write_str(",\n")?;
                }
                f.write_str("}\n")
            }
            _ => writeln!(f, "type {}; // opaque", ty.name),
        }
    }

    fn fmt_fields(&self, fields: &Fields, indent: &str, f: &mut Formatter<'_>) -> fmt::Result {
        match fields.shape {
            Shape::Unit => Ok(()),
            Shape::Newtype | Shape::Tuple => {
                f.write_str("(")?;
                for (idx, field) in fields.list.iter().enumerate() {
                    f.write_str(if idx > 0 { ", " } else { "" })?;
                    f.write_str(&self.name_of(field.place.ty))?;
                    if !field.unit.is_empty() {
                        write!(f, " /* {} */", field.unit)?;
                    }
                }
                f.write_str(")")
            }
            Shape::Named => {
                f.write_str(" {\n")?;
                for field in &fields.list {
                    let inner = format!("{indent}{INDENT}");
                    fmt_doc(&field.doc, &inner, f)?;
                    write!(
                        f,
                        "{inner}{}: {},",
                        field.name,
                        self.name_of(field.place.ty)
                    )?;
                    if !field.unit.is_empty() {
                        write!(f, " // {}", field.unit)?;
                    }
                    f.write_str("\n")?;
                }
                write!(f, "{indent}}}")
            }
        }
    }
}

/// All its types that have names, the message first.
impl Display for Schema {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let root = self.root_number();
        if is_item(self.root()) {
            self.fmt_type(self.root(), f)?;
        } else {
            writeln!(f, "type Message = {};", self.name_of(root))?;
        }
        for (number, ty) in (0..).zip(self.types()) {
            if number != root && is_item(ty) {
                f.write_str("\n")?;
                self.fmt_type(ty, f)?;
            }
        }
        Ok(())
    }
}

fn is_item(ty: &Type) -> bool {
    let is_item = matches!(ty.kind, Kind::Struct(_) | Kind::Enum(_) | Kind::Opaque);
    is_item && !ty.name.is_empty()
}

fn fmt_doc(doc: &str, indent: &str, f: &mut Formatter<'_>) -> fmt::Result {
    doc.lines()
        .try_for_each(|line| writeln!(f, "{indent}/// {line}"))
}

const INDENT: &str = "    ";
/// How deep types without a name are told in each other.
const DEPTH: usize = 16;
/// Longest name of a type that is told, in bytes, or little more.
const NAME_BYTES: usize = 512;
