//! A second fence around files, kept by the kernel for the process itself: even if a mount were to slip into the Sandbox,
//! nothing outside the listed folders can be opened, and no signal or abstract socket reaches outside.

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope, path_beneath_rules,
};
use serde::{Deserialize, Serialize};

/// The newest version whose rights are asked for; older kernels grant what they know of it.
const NEWEST: ABI = ABI::V6;

/// What a job may do with which folders.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rules {
    /// List the names in it and below it.
    pub(super) list: Vec<String>,
    /// Read and execute.
    pub(super) read: Vec<String>,
    /// Also write to files and devices that exist.
    pub(super) use_existing: Vec<String>,
    /// Everything.
    pub(super) write: Vec<String>,
}

/// The kernel's Landlock version, 0 when it has none or it is switched off.
pub(super) fn kernel_abi() -> u32 {
    const CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with this flag the call reads no memory (null and 0 are what the kernel demands) and makes no descriptor:
    // it returns the version or an error.
    #[allow(unsafe_code, reason = "the version of Landlock has no other interface")]
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, CREATE_RULESET_VERSION)
    };
    u32::try_from(version).unwrap_or(0)
}

/// Restricts this process for good; says whether the kernel enforces anything.
pub(super) fn restrict(rules: &Rules) -> Result<bool, RulesetError> {
    let existing = AccessFs::from_read(NEWEST) | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(&rules.list, AccessFs::ReadDir))?
        .add_rules(path_beneath_rules(&rules.read, AccessFs::from_read(NEWEST)))?
        .add_rules(path_beneath_rules(&rules.use_existing, existing))?
        .add_rules(path_beneath_rules(&rules.write, AccessFs::from_all(NEWEST)))?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}
