//! What stands in `#[message(..)]`, and what of `#[rkyv(..)]` the description depends on.

use proc_macro2::TokenTree;
use quote::format_ident;
use syn::ext::IdentExt;
use syn::meta::ParseNestedMeta;
use syn::{
    Attribute, DeriveInput, Error, Expr, ExprLit, Field, Ident, Lit, LitStr, Meta, Path, Result,
    Token, Type, parse_quote,
};

/// What is said of a whole type.
pub(crate) struct TypeAttributes {
    /// Where shmesh is.
    pub(crate) shmesh: Path,
    /// The name of the archived type that rkyv makes.
    pub(crate) archived: Ident,
    /// Another type that rkyv was told to take for the archived one.
    pub(crate) archived_as: Option<Type>,
    /// Tools know its size only.
    pub(crate) is_opaque: bool,
}

/// What is said of a field.
#[derive(Default)]
pub(crate) struct FieldAttributes {
    pub(crate) unit: String,
    pub(crate) is_opaque: bool,
    /// The wrapper that rkyv archives it with.
    pub(crate) with: Option<Type>,
}

impl TypeAttributes {
    pub(crate) fn parse(input: &DeriveInput) -> Result<Self> {
        let mut found = Self {
            shmesh: parse_quote!(::shmesh),
            archived: format_ident!("Archived{}", input.ident.unraw()),
            archived_as: None,
            is_opaque: false,
        };
        each(&input.attrs, "message", |meta| {
            if meta.path.is_ident("crate") {
                found.shmesh = meta.value()?.call(Path::parse_mod_style)?;
            } else if meta.path.is_ident("opaque") {
                found.is_opaque = true;
            } else {
                return Err(meta.error("expected `opaque` or `crate = path`"));
            }
            Ok(())
        })?;
        each(&input.attrs, "rkyv", |meta| {
            if meta.path.is_ident("archived") {
                found.archived = meta.value()?.parse()?;
            } else if meta.path.is_ident("as") {
                meta.input.parse::<Token![=]>()?;
                found.archived_as = Some(meta.input.parse()?);
            } else {
                skip(&meta)?;
            }
            Ok(())
        })?;
        Ok(found)
    }
}

impl FieldAttributes {
    pub(crate) fn parse(field: &Field) -> Result<Self> {
        let mut found = Self::default();
        each(&field.attrs, "message", |meta| {
            if meta.path.is_ident("unit") {
                found.unit = meta.value()?.parse::<LitStr>()?.value();
            } else if meta.path.is_ident("opaque") {
                found.is_opaque = true;
            } else {
                return Err(meta.error("expected `unit = \"..\"` or `opaque`"));
            }
            Ok(())
        })?;
        each(&field.attrs, "rkyv", |meta| {
            if meta.path.is_ident("with") {
                meta.input.parse::<Token![=]>()?;
                found.with = Some(meta.input.parse()?);
            } else {
                skip(&meta)?;
            }
            Ok(())
        })?;
        if let (Some(with), false) = (&found.with, found.is_opaque) {
            return Err(Error::new_spanned(
                with,
                "how this wrapper archives a field is not known here: add `#[message(opaque)]`",
            ));
        }
        Ok(found)
    }
}

/// The doc comment, its lines joined.
pub(crate) fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| {
        let Meta::NameValue(pair) = &attribute.meta else {
            return None;
        };
        let Expr::Lit(ExprLit {
            lit: Lit::Str(text),
            ..
        }) = &pair.value
        else {
            return None;
        };
        let is_doc = pair.path.is_ident("doc");
        is_doc.then(|| text.value().trim().to_owned())
    });
    let lines: Vec<_> = lines.collect();
    lines.join("\n").trim().to_owned()
}

/// Hands over what stands in all attributes of this name.
fn each(
    attributes: &[Attribute],
    name: &str,
    mut take: impl FnMut(ParseNestedMeta<'_>) -> Result<()>,
) -> Result<()> {
    let named = attributes.iter().filter(|a| a.path().is_ident(name));
    for attribute in named {
        // `#[rkyv]` alone says nothing.
        if matches!(attribute.meta, Meta::List(_)) {
            attribute.parse_nested_meta(&mut take)?;
        }
    }
    Ok(())
}

/// Passes over the rest of an argument that is rkyv's business: rkyv complains if it is wrong.
fn skip(meta: &ParseNestedMeta<'_>) -> Result<()> {
    meta.input.step(|cursor| {
        let mut rest = *cursor;
        while let Some((tree, next)) = rest.token_tree() {
            if matches!(&tree, TokenTree::Punct(punct) if punct.as_char() == ',') {
                break;
            }
            rest = next;
        }
        Ok(((), rest))
    })
}
