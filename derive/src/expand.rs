//! The implementation that the macro writes.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{
    Data, DataEnum, DeriveInput, Error, Field, Fields, Generics, Ident, Path, Result, parse_quote,
};

use crate::attributes::{FieldAttributes, TypeAttributes, doc};

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let attributes = TypeAttributes::parse(input)?;
    let shmesh = &attributes.shmesh;
    let text = doc(&input.attrs);
    let body = match &input.data {
        Data::Union(_) => {
            let why = "a union does not say what is in it: it cannot be a message";
            return Err(Error::new_spanned(&input.ident, why));
        }
        _ if attributes.is_opaque => quote!(#shmesh::schema::Type::of_opaque::<Self>(#text)),
        Data::Struct(data) => structure(&attributes, input, &data.fields, &text)?,
        Data::Enum(data) => enumeration(&attributes, data, &text)?,
    };
    let name = &input.ident;
    let generics = described(&input.generics, shmesh);
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics #shmesh::schema::Describe for #name #ty_generics #where_clause {
            fn describe(types: &mut #shmesh::schema::Types) -> #shmesh::schema::Type {
                #body
            }
        }
    })
}

/// What a type is made of must be described, too.
fn described(generics: &Generics, shmesh: &Path) -> Generics {
    let mut generics = generics.clone();
    for parameter in generics.type_params_mut() {
        parameter
            .bounds
            .push(parse_quote!(#shmesh::schema::Describe));
    }
    generics
}

fn structure(
    attributes: &TypeAttributes,
    input: &DeriveInput,
    fields: &Fields,
    text: &str,
) -> Result<TokenStream> {
    let shmesh = &attributes.shmesh;
    let (_, ty_generics, _) = input.generics.split_for_impl();
    let archived = &attributes.archived;
    let archived = match &attributes.archived_as {
        Some(ty) => quote!(#ty),
        None => quote!(#archived #ty_generics),
    };
    let mut described = Vec::new();
    for (idx, (field, member)) in fields.iter().zip(fields.members()).enumerate() {
        let FieldPart { label, ty, call } = part(attributes, field, idx)?;
        described.push(quote_spanned! { field.ty.span() =>
            types.#call::<#ty>(::core::mem::offset_of!(#archived, #member), #label)
        });
    }
    let shape = shape(shmesh, fields);
    Ok(quote! {
        let fields = ::std::vec![#(#described),*];
        #shmesh::schema::Type::of_struct::<Self>(#text, #shape, fields)
    })
}

fn enumeration(attributes: &TypeAttributes, data: &DataEnum, text: &str) -> Result<TokenStream> {
    let shmesh = &attributes.shmesh;
    let mut steps = Vec::new();
    for variant in &data.variants {
        let name = variant.ident.unraw().to_string();
        let text = doc(&variant.attrs);
        let shape = shape(shmesh, &variant.fields);
        let tag = match &variant.discriminant {
            Some((_, tag)) => quote!(::core::option::Option::Some(#tag)),
            None => quote!(::core::option::Option::None),
        };
        steps.push(quote!(variants.begin(#name, #tag, #shape, #text);));
        for (idx, field) in variant.fields.iter().enumerate() {
            let FieldPart { label, ty, call } = part(attributes, field, idx)?;
            steps.push(quote_spanned! { field.ty.span() =>
                variants.#call::<#ty>(types, #label);
            });
        }
    }
    Ok(quote! {
        let mut variants = #shmesh::schema::Variants::new();
        #(#steps)*
        variants.finish::<Self>(#text)
    })
}

/// What is said of a field, whichever it belongs to.
struct FieldPart {
    label: TokenStream,
    /// Its type, or the archived type where only that is known.
    ty: TokenStream,
    call: Ident,
}

fn part(attributes: &TypeAttributes, field: &Field, idx: usize) -> Result<FieldPart> {
    let shmesh = &attributes.shmesh;
    let said = FieldAttributes::parse(field)?;
    let name = field.ident.as_ref();
    let name = name.map_or_else(|| idx.to_string(), |name| name.unraw().to_string());
    let (unit, doc) = (&said.unit, doc(&field.attrs));
    let label = quote! {
        #shmesh::schema::Label { name: #name, unit: #unit, doc: #doc }
    };
    let ty = &field.ty;
    // Where it stands is where the compiler complains.
    let span = ty.span();
    let opaque = Ident::new("opaque", span);
    let (ty, call) = match (&said.with, said.is_opaque) {
        (Some(with), _) => (
            quote!(<#with as #shmesh::rkyv::with::ArchiveWith<#ty>>::Archived),
            opaque,
        ),
        (None, true) => (quote!(<#ty as #shmesh::rkyv::Archive>::Archived), opaque),
        (None, false) => (quote!(#ty), Ident::new("field", span)),
    };
    Ok(FieldPart { label, ty, call })
}

fn shape(shmesh: &Path, fields: &Fields) -> TokenStream {
    match fields {
        Fields::Unit => quote!(#shmesh::schema::Shape::Unit),
        Fields::Named(_) => quote!(#shmesh::schema::Shape::Named),
        Fields::Unnamed(fields) if fields.unnamed.len() == 1 => {
            quote!(#shmesh::schema::Shape::Newtype)
        }
        Fields::Unnamed(_) => quote!(#shmesh::schema::Shape::Tuple),
    }
}
