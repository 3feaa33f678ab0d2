//! The contract with agents, read with the parser that guests' bindings use: every item says what it is and since when, every list
//! and string has its bound in the text beside it, and no type of WASI gets in.

use std::path::Path;

use anyhow::Context as _;
use wit_parser::{
    Docs, Function, FunctionKind, Resolve, Span, Stability, Type, TypeDef, TypeDefKind, TypeId, TypeOwner,
};

use super::Finding;

/// Our packages, in an order in which each finds those it uses.
const PACKAGES: [&str; 2] = ["wit/credentials", "wit/agent"];

/// The one package that has worlds: a capability does not say who uses it.
const WORLDS: &str = "agent";

/// Whose packages ours may use.
const OURS: &str = "claviger";

/// Findings in all of our packages.
pub(super) fn packages(root: &Path) -> anyhow::Result<Vec<Finding>> {
    let mut folders: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(root.join("wit")).context("cannot read wit/")? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(format!("wit/{}", entry.file_name().to_string_lossy()));
        }
    }
    let unknown = folders
        .iter()
        .filter(|folder| !PACKAGES.contains(&folder.as_str()));
    let unknown = unknown
        .map(|folder| Finding::new(folder, 0, "is a package that xtask/src/tidy/wit.rs does not know"));
    let mut findings: Vec<Finding> = unknown.collect();
    let mut resolve = Resolve::default();
    for folder in PACKAGES {
        if let Err(error) = resolve.push_dir(root.join(folder)) {
            findings.push(Finding::new(folder, 0, format!("does not parse: {error:#}")));
            return Ok(findings);
        }
    }
    findings.extend(rules(&resolve));
    Ok(findings)
}

/// Findings in what was parsed.
fn rules(resolve: &Resolve) -> Vec<Finding> {
    let mut check = Check {
        resolve,
        findings: Vec::new(),
    };
    for (_, package) in &resolve.packages {
        let name = &package.name;
        if name.namespace != OURS {
            check.findings.push(Finding::new(
                &name.to_string(),
                0,
                format!("is not of `{OURS}`: our packages use no others"),
            ));
        }
        if !package.worlds.is_empty() && name.name != WORLDS {
            check.findings.push(Finding::new(
                &name.to_string(),
                0,
                format!("has a world; worlds are in `{OURS}:{WORLDS}` only"),
            ));
        }
    }
    for (_, world) in &resolve.worlds {
        check.item(
            &format!("world {}", world.name),
            world.span,
            &world.docs,
            Some(&world.stability),
        );
    }
    for (_, interface) in &resolve.interfaces {
        let name = interface.name.as_deref().unwrap_or("inline");
        check.item(name, interface.span, &interface.docs, Some(&interface.stability));
        for (type_name, id) in &interface.types {
            check.type_definition(&format!("{name}/{type_name}"), *id);
        }
        for (function_name, function) in &interface.functions {
            check.function(&format!("{name}/{function_name}"), function);
        }
    }
    check.findings
}

struct Check<'a> {
    resolve: &'a Resolve,
    findings: Vec<Finding>,
}

impl Check<'_> {
    fn found(&mut self, name: &str, span: Span, what: &str) {
        let place = self.resolve.source_map.render_location(span);
        // `path:line:column`, as other findings have it.
        self.findings
            .push(Finding::new(&place, 0, format!("`{name}` {what}")));
    }

    fn item(&mut self, name: &str, span: Span, docs: &Docs, stability: Option<&Stability>) {
        if docs.contents.as_deref().is_none_or(|text| text.trim().is_empty()) {
            self.found(name, span, "has no `///`");
        }
        if stability.is_some_and(|stability| !matches!(stability, Stability::Stable { .. })) {
            self.found(name, span, "has no `@since`");
        }
    }

    /// Something that an agent or the host can size needs its bound in words: `at most` and a number.
    fn bounded(&mut self, name: &str, span: Span, docs: &Docs, sized: bool) {
        let text = docs.contents.as_deref().unwrap_or_default().to_lowercase();
        let bound = text.contains("at most") && text.bytes().any(|byte| byte.is_ascii_digit());
        if sized && !bound {
            self.found(
                name,
                span,
                "has a list or a string without its bound: say `at most …`",
            );
        }
    }

    fn type_definition(&mut self, name: &str, id: TypeId) {
        let Some(definition) = self.resolve.types.get(id) else {
            return;
        };
        if is_use(self.resolve, definition) {
            return;
        }
        self.item(
            name,
            definition.span,
            &definition.docs,
            Some(&definition.stability),
        );
        let part = |part: &str| format!("{name}.{part}");
        match &definition.kind {
            TypeDefKind::Record(record) => {
                for field in &record.fields {
                    self.item(&part(&field.name), field.span, &field.docs, None);
                    let sized = self.sized(&field.ty);
                    self.bounded(&part(&field.name), field.span, &field.docs, sized);
                }
            }
            TypeDefKind::Variant(variant) => {
                for case in &variant.cases {
                    self.item(&part(&case.name), case.span, &case.docs, None);
                    let sized = case.ty.as_ref().is_some_and(|ty| self.sized(ty));
                    self.bounded(&part(&case.name), case.span, &case.docs, sized);
                }
            }
            TypeDefKind::Enum(cases) => {
                for case in &cases.cases {
                    self.item(&part(&case.name), case.span, &case.docs, None);
                }
            }
            TypeDefKind::Flags(flags) => {
                for flag in &flags.flags {
                    self.item(&part(&flag.name), flag.span, &flag.docs, None);
                }
            }
            TypeDefKind::Resource => {}
            kind @ (TypeDefKind::Handle(_)
            | TypeDefKind::Tuple(_)
            | TypeDefKind::Option(_)
            | TypeDefKind::Result(_)
            | TypeDefKind::List(_)
            | TypeDefKind::Map(..)
            | TypeDefKind::FixedLengthList(..)
            | TypeDefKind::Future(_)
            | TypeDefKind::Stream(_)
            | TypeDefKind::Type(_)
            | TypeDefKind::Unknown) => {
                let sized = self.sized_kind(kind);
                self.bounded(name, definition.span, &definition.docs, sized);
            }
        }
    }

    fn function(&mut self, name: &str, function: &Function) {
        // A method is as old as its resource, unless it says otherwise.
        let own = matches!(
            function.kind,
            FunctionKind::Freestanding | FunctionKind::AsyncFreestanding
        );
        self.item(
            name,
            function.span,
            &function.docs,
            own.then_some(&function.stability),
        );
        let types = function
            .params
            .iter()
            .map(|param| &param.ty)
            .chain(&function.result);
        let sized = types.into_iter().any(|ty| self.sized(ty));
        self.bounded(name, function.span, &function.docs, sized);
    }

    /// Whether a list or a string is in it, other than inside a named type, which has its own text.
    fn sized(&self, ty: &Type) -> bool {
        let anonymous = |id| {
            self.resolve
                .types
                .get(id)
                .filter(|definition| definition.name.is_none())
        };
        if let Type::Id(id) = ty {
            return anonymous(*id).is_some_and(|definition| self.sized_kind(&definition.kind));
        }
        *ty == Type::String
    }

    fn sized_kind(&self, kind: &TypeDefKind) -> bool {
        match kind {
            TypeDefKind::List(_) | TypeDefKind::Map(..) | TypeDefKind::Stream(_) => true,
            TypeDefKind::Option(ty) | TypeDefKind::Type(ty) | TypeDefKind::FixedLengthList(ty, _) => {
                self.sized(ty)
            }
            TypeDefKind::Result(result) => result.ok.iter().chain(&result.err).any(|ty| self.sized(ty)),
            TypeDefKind::Tuple(tuple) => tuple.types.iter().any(|ty| self.sized(ty)),
            TypeDefKind::Future(ty) => ty.iter().any(|ty| self.sized(ty)),
            TypeDefKind::Record(_)
            | TypeDefKind::Resource
            | TypeDefKind::Handle(_)
            | TypeDefKind::Flags(_)
            | TypeDefKind::Variant(_)
            | TypeDefKind::Enum(_)
            | TypeDefKind::Unknown => false,
        }
    }
}

/// Whether a type is only a `use` of another interface's, which is judged there.
fn is_use(resolve: &Resolve, definition: &TypeDef) -> bool {
    let TypeDefKind::Type(Type::Id(target)) = definition.kind else {
        return false;
    };
    let owner = resolve.types.get(target).map(|target| target.owner);
    let elsewhere = owner.is_some_and(|owner| owner != definition.owner);
    elsewhere && !matches!(owner, Some(TypeOwner::None))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the rules say of one package.
    fn check(package: &str, text: &str) -> Vec<String> {
        let mut resolve = Resolve::default();
        resolve
            .push_str("a.wit", &format!("package {package};\n{text}"))
            .unwrap();
        rules(&resolve).iter().map(ToString::to_string).collect()
    }

    const GOOD: &str = "
        /// Things.
        @since(version = 0.1.0)
        interface things {
            /// A thing.
            @since(version = 0.1.0)
            record thing {
                /// Its name. At most 64 bytes.
                name: string,
                /// Its size in bytes.
                size: u64,
            }
            /// A handle.
            @since(version = 0.1.0)
            resource handle {
                /// Closes it.
                close: func();
            }
            /// Lists them. At most 256.
            @since(version = 0.1.0)
            list-them: func() -> result<list<thing>, string>;
            /// Gives the first.
            @since(version = 0.1.0)
            first: func() -> thing;
        }";

    #[test]
    fn a_described_and_bounded_package_passes() {
        assert_eq!(check("claviger:things@0.1.0", GOOD), [""; 0]);
    }

    #[test]
    fn each_missing_word_is_caught() {
        for (gone, instead, expected) in [
            ("/// A thing.", "", "has no `///`"),
            ("/// Its size in bytes.", "", "has no `///`"),
            ("/// Closes it.", "", "has no `///`"),
            (
                "/// Things.\n        @since(version = 0.1.0)",
                "/// Things.",
                "has no `@since`",
            ),
            (
                "/// Gives the first.\n            @since(version = 0.1.0)",
                "/// Gives the first.",
                "has no `@since`",
            ),
            ("At most 64 bytes.", "", "without its bound"),
            ("At most 256.", "At most a few.", "without its bound"),
        ] {
            let text = GOOD.replace(gone, instead);
            assert_ne!(text, GOOD, "the sample has no {gone:?}");
            let found = check("claviger:things@0.1.0", &text);
            assert_eq!(found.len(), 1, "{gone:?}: {found:?}");
            assert!(found[0].contains(expected), "{gone:?}: {found:?}");
        }
    }

    #[test]
    fn a_foreign_package_and_a_world_out_of_place_are_caught() {
        assert_eq!(check("wasi:things@0.1.0", GOOD).len(), 1);
        let world = "/// All.\n@since(version = 0.1.0)\nworld all {}\n";
        assert_eq!(check("claviger:things@0.1.0", world).len(), 1);
        assert_eq!(check("claviger:agent@0.1.0", world), [""; 0]);
    }

    #[test]
    fn our_packages_are_found_and_read() {
        let root = crate::metadata::root().unwrap();
        let mut resolve = Resolve::default();
        for folder in PACKAGES {
            resolve.push_dir(root.join(folder)).unwrap();
        }
        assert!(
            resolve
                .interfaces
                .iter()
                .any(|(_, interface)| interface.name.as_deref() == Some("signing"))
        );
    }
}
