//! The text of `--help`: grouped, with examples, within 80 columns. argh can print neither groups
//! nor defaults, so it only parses; a test holds this text, the README and argh's table together.

/// Help for the default action.
pub(super) const MIRROR: &str = "\
Mirror git repositories to S3-compatible storage, so that git clones them from
the bucket over plain HTTP(S), with no server.

Usage: mirror-git-to-s3 --source URL --target s3://BUCKET/PREFIX [options]
       mirror-git-to-s3 --manifest FILE|- [options]
       mirror-git-to-s3 verify --target URL [--quick]      (verify --help)
       mirror-git-to-s3 gc --target URL [--grace 24h] [-n]     (gc --help)
       mirror-git-to-s3 lfs-agent URL [options]    (for git-lfs)

What to mirror:
  --source URL             https://..., http://..., bundle:PATH, or - for a
                           bundle on standard input; repeatable
  --target URL             s3://BUCKET/PREFIX or file:///DIRECTORY; repeatable,
                           the n-th target belongs to the n-th source
  --manifest FILE          one 'SOURCE TARGET' a line, # comments; - for stdin
  --shard I/N              of the manifest, only the share I of N (from 0)
  --refs GLOB              only these refs, as refs/heads/*; repeatable
  --exclude-refs GLOB      not these refs; wins over --refs; repeatable
  --no-lfs                 leave LFS objects out
  --lfs-allow-other-host   follow .lfsconfig to an LFS server on another host

How:
  --layout loose|pack      one S3 object a git object, or packs as they come
                           [default: loose]
  --max-packs N            pack layout: above N packs, take the whole as one
                           [default: 50]
  --full                   ask for everything again, store what is missing
  --force                  let the mirror lose all or most of its refs
  -n, --dry-run            say what would change, write nothing
  --jobs N                 repositories at once [default: 1]
  --concurrency N          store requests in flight, of all jobs [default: 64]
  --memory MIB             working memory, of all jobs [default: 64]
  --fail-fast              begin no other repository after one has failed

Store:
  --endpoint-url URL       address of an S3-compatible store
  --region R               [default: environment, profile, us-east-1]
  --profile P              profile of the AWS configuration files
  --addressing-style S     auto, path or virtual [default: auto: path with an
                           endpoint of your own, virtual on AWS]
  --storage-class C        of every object written
  --sse S                  encryption at rest: AES256, aws:kms
  --sse-kms-key-id K       key for --sse aws:kms
  --acl A                  canned ACL of every object written

Connections:
  --ca-bundle PEM          CAs to trust besides the system's
  --source-header-file F   header lines for the source (Authorization: ...)

Output:
  -q, --quiet              errors only
  -v, --verbose            say what is going on; -vv: for finding faults
  --json                   one JSON object a repository on standard output
  --progress WHEN          bars on standard error: auto, always or never
                           [default: auto: on a terminal]
  --metrics-file FILE      write a Prometheus textfile at the end
  -h, --help               this text
  -V, --version            the version

Examples:
  mirror-git-to-s3 --source https://example.com/project.git \\
      --target s3://mirrors/project.git
  mirror-git-to-s3 --manifest list.txt --jobs 4 --layout pack \\
      --endpoint-url https://minio.example.com --ca-bundle ca.pem
  ssh inside cat project.bundle |
      mirror-git-to-s3 --source - --target s3://mirrors/project.git

Exit codes: 0 done; 1 failed; 2 usage; 3 some of several failed; 4 LFS objects
lacking; 5 try again later; 11 another run published meanwhile; 12 access
denied; 13 a guard refused (see --force); 130, 143 interrupted.

Credentials and endpoints also come from the environment, as in the AWS CLI.
";

/// Help for `lfs-agent`.
pub(super) const LFS_AGENT: &str = "\
Read Git LFS objects from a mirror: git-lfs starts this as its standalone
custom transfer agent and speaks with it on standard input and output.

Usage: mirror-git-to-s3 lfs-agent URL [options]

URL is where the mirror is: https://BUCKET.../PREFIX (as git clones it),
s3://BUCKET/PREFIX (with credentials, as in the AWS CLI) or file:///DIRECTORY.
It comes first.

Options:
  --endpoint-url URL       address of an S3-compatible store
  --region R               [default: environment, profile, us-east-1]
  --profile P              profile of the AWS configuration files
  --addressing-style S     auto, path or virtual
  --ca-bundle PEM          CAs to trust besides the system's
  -q, --quiet              errors only
  -v, --verbose            say what is going on; -vv: for finding faults
  -h, --help               this text

Example:
  git -c lfs.standalonetransferagent=mirror \\
      -c lfs.customtransfer.mirror.path=mirror-git-to-s3 \\
      -c lfs.customtransfer.mirror.args='lfs-agent https://host/a.git' \\
      clone https://host/a.git
";

/// Help for `verify`.
pub(super) const VERIFY: &str = "\
Read a mirror back and prove it: refs, every object that they reach, packs, LFS
objects. What is wrong goes to standard output.

Usage: mirror-git-to-s3 verify --target URL [--quick] [options]

  --target URL             s3://BUCKET/PREFIX, file:///DIRECTORY, or the
                           https://... URL that git clones from
  --quick                  blobs, packs and LFS objects by name and size only
  --concurrency N          requests in flight [default: 64]
  --memory MIB             memory for packs [default: 64]
  --endpoint-url URL, --region R, --profile P, --addressing-style S,
  --ca-bundle PEM          as for mirroring
  -q, --quiet              errors only
  -v, --verbose            say what is going on; -vv: for finding faults
  --json                   one JSON object on standard output
  -h, --help               this text
  -V, --version            the version

Exit codes: 0 sound; 1 faulty, or failed; 2 usage; 5 try again later; 12 access
denied; 130, 143 interrupted.
";

/// Help for `gc`.
pub(super) const GC: &str = "\
Delete what no ref of a mirror reaches and no list names. Safe beside running
mirrors: one that is overtaken ends with 11 and has to run again.

Usage: mirror-git-to-s3 gc --target URL [--grace 24h] [-n] [options]

  --target URL             s3://BUCKET/PREFIX or file:///DIRECTORY
  --grace TIME             what is younger stays: 90s, 30m, 24h, 7d; longer than
                           the longest run [default: 24h]
  -n, --dry-run            list what would be deleted, delete nothing
  --concurrency N          requests in flight [default: 64]
  --memory MIB             memory for packs [default: 64]
  --endpoint-url URL, --region R, --profile P, --addressing-style S,
  --ca-bundle PEM          as for mirroring
  -q, --quiet              errors only
  -v, --verbose            say what is going on; -vv: for finding faults
  --json                   one JSON object on standard output
  -h, --help               this text
  -V, --version            the version

Exit codes: 0 done; 1 failed; 2 usage; 5 try again later; 11 a run published
meanwhile; 12 access denied; 130, 143 interrupted.
";

/// What `--version` prints.
pub(super) fn version() -> String {
    format!("mirror-git-to-s3 {}\n", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::{GC, MIRROR, VERIFY};
    use crate::cli::args::MirrorArgs;
    use crate::exit_code::ExitCode;
    use argh::ArgsInfo;

    #[test]
    fn help_and_readme_know_every_option() {
        let readme = include_str!("../../README.md");
        for flag in MirrorArgs::get_args_info().flags {
            let line = MIRROR
                .lines()
                .find(|line| line.trim_start().split([' ', ',']).any(|word| word == flag.long))
                .unwrap_or_else(|| panic!("{} is not in the help", flag.long));
            if let Some(short) = flag.short {
                assert!(line.trim_start().starts_with(&format!("-{short}, ")), "{line}");
            }
            let row = readme.lines().any(|line| line.starts_with('|') && line.contains(flag.long));
            assert!(row, "{} is not in the README's table", flag.long);
        }
    }

    #[test]
    fn help_and_readme_know_every_exit_code() {
        let readme = include_str!("../../README.md");
        let codes = MIRROR.split("Exit codes:").nth(1).expect("the help lists exit codes");
        for code in ExitCode::ALL {
            let number = code.code().to_string();
            let words: Vec<&str> = codes.split([' ', ',', '\n']).collect();
            assert!(words.contains(&number.as_str()), "{number}");
            let row = format!("| {number} | {} |", code.when());
            assert!(readme.contains(&row), "{row}");
        }
    }

    #[test]
    fn help_fits_80_columns() {
        for line in [MIRROR, VERIFY, GC, super::LFS_AGENT].iter().flat_map(|text| text.lines()) {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}
