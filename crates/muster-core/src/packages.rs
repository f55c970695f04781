//! Debian packages that an app needs, and the short name by which nodes speak of such a set.

use core::fmt;

use serde::{Deserialize, Serialize};

/// The most packages of one set.
pub const PACKAGES_MAX: usize = 64;
/// The longest name of a package, in bytes.
pub const PACKAGE_LEN_MAX: usize = 128;
/// The most sets that a Container says it has warm.
pub const WARM_MAX: usize = 64;

/// What is wrong with a list of packages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackagesError {
    /// Too many.
    #[error("{0} packages are named; at most {PACKAGES_MAX} can be")]
    TooMany(usize),
    /// No name of a package.
    #[error(
        "{0:?} is no name of a Debian package; write 2 to {PACKAGE_LEN_MAX} of a-z, 0-9, +, - and ., a letter or digit first"
    )]
    Name(String),
}

/// Names of Debian packages: sorted, each once, each a name and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct PackageSet(Vec<String>);

/// Names a [`PackageSet`]: the same packages have the same name on every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PackageSetId(pub u64);

impl fmt::Display for PackageSetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl PackageSet {
    /// Sorts and checks names.
    ///
    /// # Errors
    /// [`PackagesError`]: the first name that is none, or too many names.
    pub fn new(names: impl IntoIterator<Item = String>) -> Result<Self, PackagesError> {
        let mut all = Vec::new();
        for name in names {
            if !is_package(&name) {
                return Err(PackagesError::Name(name.chars().take(PACKAGE_LEN_MAX).collect()));
            }
            all.push(name);
        }
        all.sort_unstable();
        all.dedup();
        if all.len() > PACKAGES_MAX {
            return Err(PackagesError::TooMany(all.len()));
        }
        Ok(Self(all))
    }

    /// The names, in order.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Whether nothing is needed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first eight bytes of BLAKE3 over the names, a line each; `None` of an empty set, which every machine has.
    #[must_use]
    pub fn id(&self) -> Option<PackageSetId> {
        if self.0.is_empty() {
            return None;
        }
        let mut hasher = blake3::Hasher::new_derive_key("muster package set v1");
        for name in &self.0 {
            hasher.update(name.as_bytes());
            hasher.update(b"\n");
        }
        let hash = hasher.finalize();
        Some(PackageSetId(hash.as_bytes().iter().take(8).fold(0, |word, byte| word << 8 | u64::from(*byte))))
    }
}

impl fmt::Display for PackageSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

impl TryFrom<Vec<String>> for PackageSet {
    type Error = PackagesError;
    fn try_from(names: Vec<String>) -> Result<Self, PackagesError> {
        Self::new(names)
    }
}

impl From<PackageSet> for Vec<String> {
    fn from(set: PackageSet) -> Self {
        set.0
    }
}

/// Whether a text is a name by Debian's policy (section 5.6.1), so that no program takes it for an option or a pattern.
fn is_package(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() >= 2
        && name.len() <= PACKAGE_LEN_MAX
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|b| plain(b) || b"+-.".contains(&b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(names: &[&str]) -> Result<PackageSet, PackagesError> {
        PackageSet::new(names.iter().map(ToString::to_string))
    }

    #[test]
    fn only_names_are_taken() {
        for wrong in ["", "a", "-y", "a b", "a/b", "A1", "a=1", "a*", "../x", &"x".repeat(129)] {
            assert!(matches!(set(&["ok", wrong]), Err(PackagesError::Name(_))), "{wrong:?}");
        }
        let many: Vec<String> = (0..65).map(|n| format!("p{n}x")).collect();
        assert_eq!(PackageSet::new(many), Err(PackagesError::TooMany(65)));
        assert!(set(&["libstdc++6", "g++", "0ad", "python3.11"]).is_ok());
        assert!(PackageSet::try_from(vec!["-o".to_owned()]).is_err());
    }

    #[test]
    fn names_of_sets_do_not_change() {
        // Written down by Containers and told to Indexers of another version.
        let id = set(&["neverball"]).unwrap().id().unwrap();
        assert_eq!(id.to_string(), "79ee847a309eebb3");
        assert_eq!(PackageSet::default().id(), None);
        assert_ne!(set(&["ab", "cd"]).unwrap().id(), set(&["ab-cd"]).unwrap().id());
    }

    proptest! {
        #[test]
        fn order_and_repetition_say_nothing(mut names in proptest::collection::vec("[a-z0-9][a-z0-9+.-]{1,9}", 0..20)) {
            let one = PackageSet::new(names.clone()).unwrap();
            names.reverse();
            names.extend(names.clone());
            let other = PackageSet::new(names).unwrap();
            prop_assert_eq!(one.id(), other.id());
            prop_assert_eq!(PackageSet::try_from(Vec::from(one.clone())), Ok(one));
        }
    }
}
