//! Drivers, challenges, and a prover on each.

use std::path::Path;
use std::time::Duration;

use muster_core::hardware::GpuModel;
use muster_core::ids::NodeId;
use muster_core::proof::challenge::PROOF_VERSION;
use muster_core::proof::{Challenge, Claim, Rates, Scale, Secrets};
use muster_core::units::{Bytes, Ob};
use muster_gpu::CardProver;

pub(crate) const WITHIN: Duration = Duration::from_secs(300);

/// A software driver: its name as it calls itself, its file, and the package that brings it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Driver {
    pub(crate) name: &'static str,
    file: &'static str,
    package: &'static str,
}

pub(crate) const LAVAPIPE: Driver =
    Driver { name: "llvmpipe", file: "/usr/share/vulkan/icd.d/lvp_icd.x86_64.json", package: "mesa-vulkan-drivers" };
pub(crate) const SWIFTSHADER: Driver =
    Driver { name: "SwiftShader", file: "/usr/lib/chromium/vk_swiftshader_icd.json", package: "chromium" };

/// A prover whose only Vulkan driver is this one; nothing is opened yet.
pub(crate) fn start(driver: Driver) -> CardProver {
    assert!(Path::new(driver.file).exists(), "{} is missing: apt-get install {}", driver.file, driver.package);
    // The second is the name that loaders before 1.3.207 know.
    let environment = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].map(|name| (name.into(), driver.file.into()));
    CardProver::start(Path::new(env!("CARGO_BIN_EXE_muster-prove")), &environment).expect("the child starts")
}

/// A prover on this driver.
pub(crate) fn open(driver: Driver) -> CardProver {
    let mut prover = start(driver);
    let adapters = prover.adapters(WITHIN).expect("the driver lists its device");
    let found = adapters.iter().find(|adapter| adapter.name.contains(driver.name));
    let adapter = found.unwrap_or_else(|| panic!("{} is not among {adapters:?}", driver.name));
    assert!(adapter.software && adapter.vulkan);
    prover.open(adapter.index, WITHIN).expect("the device opens");
    prover
}

pub(crate) fn secrets(number: u64) -> Secrets {
    let mut nonce = [1; 32];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    Secrets { nonce, vector: [2; 32] }
}

/// A small challenge; everything in it differs from number to number.
pub(crate) fn challenge(secrets: &Secrets, number: u64) -> Challenge {
    let spin = u32::try_from(number).unwrap_or(0);
    Challenge {
        version: PROOF_VERSION,
        beacon: *blake3::hash(&number.to_le_bytes()).as_bytes(),
        epoch: number,
        container: NodeId([7; 32]),
        checker: NodeId([9; 32]),
        card: 0,
        claim: Claim {
            model: GpuModel::new("llvmpipe").expect("a name"),
            ob: Ob::points(1),
            vram: Bytes((1 + number % 3) << 20),
        },
        rates: Rates {
            table_ob: Ob::points(1),
            uncertainty_percent: 80,
            // The more, the more samples a pixel.
            steps_per_ob: 12_000_000 * (1 + number % 3),
            products_per_ob: [2_000_000, 12_000_000][usize::try_from(number % 2).unwrap_or(0)],
            reads_per_ob: 200_000,
        },
        scale: Scale {
            picture_side: 256,
            spp_max: 3,
            bounces: spin % 5,
            product_side_max: 128,
            pad_bytes_max: Bytes(4 << 20),
            chunks_opened: 2,
            walks: 128,
            walk_segments: 3,
            walk_steps: 16,
            segments_opened: 4,
            // Whoever shares this machine may be busy.
            slack_ms: 600_000,
            opening_ms: 600_000,
            ..Scale::development()
        },
        commitment: secrets.commitment(),
    }
}
