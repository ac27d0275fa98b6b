//! The text of `--help`: grouped, with examples, within 80 columns. argh can print neither groups
//! nor defaults, so it only parses; a test holds this text, the README and argh's table together.

/// Help for the default action.
pub(super) const MIRROR: &str = "\
Mirror git repositories to S3-compatible storage, so that git clones them from
the bucket over plain HTTP(S), with no server.

Usage: mirror-git-to-s3 --source URL --target s3://BUCKET/PREFIX [options]
  or:  mirror-git-to-s3 --manifest FILE|- [options]
  or:  mirror-git-to-s3 verify --target URL [--quick] [options]
  or:  mirror-git-to-s3 gc --target URL [--grace 24h] [-n] [options]
  or:  mirror-git-to-s3 refs --target URL [options]
  or:  mirror-git-to-s3 restore --target URL --at TIME [--as URL] [options]
  or:  mirror-git-to-s3 export --target URL [--since STATE] -o FILE|- [options]
  or:  mirror-git-to-s3 import --target URL FILE|- [--state-out STATE] [options]
  or:  mirror-git-to-s3 lfs-agent URL [options]
  or:  mirror-git-to-s3 completions bash|fish|zsh

Each of the last eight has its own --help.

What to mirror:
  --source URL             https://..., http://..., bundle:PATH, - for a bundle
                           on standard input, or another mirror:
                           mirror:s3://BUCKET/PREFIX, mirror:file:///DIRECTORY;
                           trip:PATH, trip:- for what export wrote; repeatable
  --target URL             s3://BUCKET/PREFIX or file:///DIRECTORY; repeatable,
                           the n-th target belongs to the n-th source
  --manifest FILE          one 'SOURCE TARGET' a line, # comments; - for stdin
  --shard I/N              of the manifest, only the share I of N (from 0)
  --refs GLOB              only these refs, as refs/heads/*; repeatable
  --exclude-refs GLOB      not these refs; wins over --refs; repeatable
  --no-lfs                 leave LFS objects out
  --lfs-dir DIR            for bundles: take LFS objects from here, a clone's
                           .git/lfs
  --max-object-size SIZE   refuse larger objects: 500m, 2g, 5t [default: 5t]
  --lfs-allow-other-host   follow .lfsconfig to an LFS server on another host

How:
  --layout auto|loose|pack by how much comes; an S3 object a git object; packs
                           [default: auto]
  --max-packs N            above N packs, some of them are made one in the store
                           [default: 20]
  --full                   read the mirror, ask for everything again, and store
                           what is missing or damaged
  --slices                 pack layout: fetch a first run in slices from the
                           start, not only once the whole has broken off
  --bundle                 also publish clone.bundle and bundle-list, for
                           git clone --bundle-uri (implies --layout pack)
  --no-bundle-uri          pack layout: begin no first run with a bundle that
                           the source offers
  --force                  let the mirror lose all or most of its refs
  --move-source            take over a mirror of another source
  --keep-history TIME      keep the refs of each publication, and what they
                           reach, for so long after the next: 90d; 0: no longer
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
  --source-endpoint-url URL
                           address of the store of mirror: sources [default of
                           this and the next three: as for the target]
  --source-region R        its region
  --source-profile P       profile for it
  --source-addressing-style S
                           auto, path or virtual, for it
  --storage-class C        of every object written
  --sse S                  encryption at rest: AES256, aws:kms
  --sse-kms-key-id K       key for --sse aws:kms
  --acl A                  canned ACL of every object written

Connections:
  --ca-bundle PEM          CAs to trust besides the system's
  --source-header-file F   header lines for the source (Authorization: ...)
  --allow-redirect-host    follow a source's redirect to another host
  --low-speed-limit BYTES  give up connections slower than so many bytes a
                           second [default: 100; 0: never]
  --low-speed-time S       for so many seconds [default: 300; 0: never]
  --timeout S              give up a repository after so many seconds

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
  mirror-git-to-s3 --source https://host/a.git --target s3://mirrors/a.git
  mirror-git-to-s3 --manifest list.txt --jobs 4 --layout pack
  ssh host cat a.bundle | mirror-git-to-s3 --source - --target s3://mirrors/a

Exit codes: 0 done; 1 failed; 2 usage; 3 some of several failed; 4 LFS objects
lacking; 5 try again later; 11 another run published meanwhile; 12 access
denied; 13 a guard refused (the message says why); 130, 143 interrupted.

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
  -V, --version            the version

Example:
  git -c lfs.standalonetransferagent=mirror \\
      -c lfs.customtransfer.mirror.path=mirror-git-to-s3 \\
      -c lfs.customtransfer.mirror.args='lfs-agent https://host/a.git' \\
      clone https://host/a.git
";

/// Help for `remote-helper`.
pub(super) const REMOTE_HELPER: &str = "\
Read a mirror with git, also from a private bucket: git starts this program as
git-remote-mirror (see install-helper) and speaks with it on standard input and
output.

Usage: git clone mirror::URL [DIRECTORY]

URL is s3://BUCKET/PREFIX (with credentials, as in the AWS CLI), https://... (as
git clones it) or file:///DIRECTORY. Clone, fetch, --depth, --shallow-since,
--filter and ls-remote work; push does not.

Git config, for all mirrors (mirror.NAME) or those below a URL (mirror.URL.NAME);
the environment beats it:
  endpoint-url, region, profile, addressing-style, ca-bundle
  trustIndex               true: take the stored index of a pack after its
                           checksums, and the mirror's word that nothing is
                           missing, instead of hashing every object

Example:
  git -c mirror.endpoint-url=https://minio.example.com \\
      clone mirror::s3://mirrors/a.git
";

/// Help for `install-helper`.
pub(super) const INSTALL_HELPER: &str = "\
Let git find this program as its remote helper for mirror:: URLs, and git-lfs as
its agent for them.

Usage: mirror-git-to-s3 install-helper [DIR] [--no-lfs]

Makes the link git-remote-mirror in DIR, which must be in PATH [default: the
folder of this program].

  --no-lfs                 leave git-lfs as it is configured
  -h, --help               this text
  -V, --version            the version
";

/// Help for `verify`.
pub(super) const VERIFY: &str = "\
Read a mirror back and prove it: refs, every object that they reach, packs, LFS
objects. What is wrong goes to standard output.

Usage: mirror-git-to-s3 verify --target URL [--quick] [options]
  or:  mirror-git-to-s3 verify --target URL --repair [--source URL] [options]

  --target URL             s3://BUCKET/PREFIX, file:///DIRECTORY, or the
                           https://... URL that git clones from; repeatable
  --manifest FILE          the targets of a manifest; - for stdin
  --shard I/N              of the manifest, only the share I of N (from 0)
  --jobs N                 mirrors at once [default: 1]
  --quick                  blobs, packs and LFS objects by name and size only
  --sample N/T             read N parts of T, the next ones in each run: 1/30
                           daily reads all in a month
  --repair                 mend what is wrong; without a source only what can be
                           mended from the mirror itself
  --source URL             for --repair: the repository; the n-th belongs to the
                           n-th target. A manifest names it
  --source-header-file F   header lines for the source (Authorization: ...)
  --storage-class C        of what a repair writes
  --sse S                  of what a repair writes: AES256, aws:kms
  --sse-kms-key-id K       key for --sse aws:kms
  --acl A                  canned ACL of what a repair writes
  --concurrency N          requests in flight, of all jobs [default: 64]
  --memory MIB             memory for packs, of all jobs [default: 64]
  --endpoint-url URL       address of an S3-compatible store
  --region R               [default: environment, profile, us-east-1]
  --profile P              profile of the AWS configuration files
  --addressing-style S     auto, path or virtual
  --ca-bundle PEM          CAs to trust besides the system's
  -q, --quiet              errors only
  -v, --verbose            say what is going on; -vv: for finding faults
  --json                   one JSON object a mirror on standard output
  --progress WHEN          bars on standard error: auto, always or never
                           [default: auto: on a terminal]
  --metrics-file FILE      write a Prometheus textfile at the end
  -h, --help               this text
  -V, --version            the version

Examples:
  mirror-git-to-s3 verify --target s3://mirrors/project.git
  mirror-git-to-s3 verify --target https://example.com/project.git --quick
  mirror-git-to-s3 verify --target s3://mirrors/a.git --repair \\
      --source https://host/a.git

Exit codes: 0 sound (again); 1 faulty, or failed; 2 usage; 3 some of several;
5 try again later; 12 access denied; 130, 143 interrupted.
";

/// Help for `gc`.
pub(super) const GC: &str = "\
Delete what no ref of a mirror reaches and no list names. Safe beside running
mirrors: one that is overtaken ends with 11 and has to run again.

Usage: mirror-git-to-s3 gc --target URL [--grace 24h] [-n] [options]

  --target URL             s3://BUCKET/PREFIX or file:///DIRECTORY; repeatable
  --manifest FILE          the targets of a manifest; - for stdin
  --shard I/N              of the manifest, only the share I of N (from 0)
  --jobs N                 mirrors at once [default: 1]
  --grace TIME             what is younger stays: 90s, 30m, 24h, 7d; longer than
                           the longest run [default: 24h]
  -n, --dry-run            list what would be deleted, delete nothing
  --concurrency N          requests in flight, of all jobs [default: 64]
  --memory MIB             memory for packs, of all jobs [default: 64]
  --endpoint-url URL       address of an S3-compatible store
  --region R               [default: environment, profile, us-east-1]
  --profile P              profile of the AWS configuration files
  --addressing-style S     auto, path or virtual
  --ca-bundle PEM          CAs to trust besides the system's
  -q, --quiet              errors only
  -v, --verbose            say what is going on; -vv: for finding faults
  --json                   one JSON object a mirror on standard output
  --progress WHEN          bars on standard error: auto, always or never
                           [default: auto: on a terminal]
  --metrics-file FILE      write a Prometheus textfile at the end
  -h, --help               this text
  -V, --version            the version

Examples:
  mirror-git-to-s3 gc --target s3://mirrors/project.git -n
  mirror-git-to-s3 gc --target file:///srv/mirrors/project.git --grace 7d

Exit codes: 0 done; 1 failed; 2 usage; 3 some of several; 5 try again later; 11
a run published meanwhile; 12 access denied; 130, 143 interrupted.
";

/// Help for `export`.
pub(super) const EXPORT: &str = "\
Write what another mirror is missing into one file: a trip by medium or by pipe,
LFS objects included. The other side reads it with import.

Usage: mirror-git-to-s3 export --target URL [--since STATE] -o FILE|- [options]

  --target URL             the mirror to read: s3://BUCKET/PREFIX, file:///DIR
  --since STATE            state of the other mirror, which import --state-out
                           wrote there [default: it has nothing]
  -o, --output FILE        the trip, a tar; - for standard output
  --no-lfs                 leave LFS objects out
  --concurrency N          requests in flight [default: 64]
  --memory MIB             working memory [default: 64]
  --endpoint-url URL       address of an S3-compatible store
  --region R               [default: environment, profile, us-east-1]
  --profile P              profile of the AWS configuration files
  --addressing-style S     auto, path or virtual
  --ca-bundle PEM          CAs to trust besides the system's
  -q, --quiet              errors only
  -v, --verbose            say what is going on; -vv: for finding faults
  --json                   the result as JSON
  -h, --help               this text
  -V, --version            the version

Examples:
  mirror-git-to-s3 export --target s3://mirrors/a.git -o trip1.tar
  mirror-git-to-s3 export --target s3://mirrors/a.git --since a.state -o 2.tar
  mirror-git-to-s3 export --target s3://mirrors/a.git -o - | ssh inside \\
      mirror-git-to-s3 import --target s3://inner/a.git -

Exit codes: 0 done; 1 failed, or a key is damaged; 2 usage; 5 try again later;
12 access denied; 13 the state is that of another repository; 130, 143
interrupted.
";

/// Help for `import`.
pub(super) const IMPORT: &str = "\
Read what export wrote, prove each key and publish: the mirror is then what the
exported one was. The same as --source trip:FILE.

Usage: mirror-git-to-s3 import --target URL FILE|- [--state-out STATE] [options]
  or:  mirror-git-to-s3 import --target URL --state-out STATE [options]

  --target URL             the mirror to fill: s3://BUCKET/PREFIX, file:///DIR
  --state-out STATE        write there what the mirror has now: carried back, it
                           lets the next export leave that out
  --no-lfs                 leave LFS objects out
  --force                  let the mirror lose all or most of its refs
  --move-source            take over a mirror of another source
  -n, --dry-run            say what would change, write nothing
  --concurrency N          requests in flight [default: 64]
  --memory MIB             working memory [default: 64]
  --endpoint-url URL       address of an S3-compatible store
  --region R               [default: environment, profile, us-east-1]
  --profile P              profile of the AWS configuration files
  --addressing-style S     auto, path or virtual
  --ca-bundle PEM          CAs to trust besides the system's
  --storage-class C        of every object written
  --sse S                  encryption at rest: AES256, aws:kms
  --sse-kms-key-id K       key for --sse aws:kms
  --acl A                  canned ACL of every object written
  -q, --quiet              errors only
  -v, --verbose            say what is going on; -vv: for finding faults
  --json                   the result as JSON
  --progress WHEN          bars on standard error: auto, always or never
                           [default: auto: on a terminal]
  -h, --help               this text
  -V, --version            the version

Example:
  mirror-git-to-s3 import --target s3://inner/a.git 1.tar --state-out a.state

Exit codes: as for mirroring; 1 also for a trip that is damaged, cut short, or
made for a mirror that has more than this one.
";

/// Help for `refs`.
pub(super) const REFS: &str = "\
List what a mirror has published, and what changed each time. Publications are
kept by mirrors that were made with --keep-history.

Usage: mirror-git-to-s3 refs --target URL [options]

  --target URL             s3://BUCKET/PREFIX or file:///DIRECTORY; repeatable
  --manifest FILE          the targets of a manifest; - for stdin
  --shard I/N              of the manifest, only the share I of N (from 0)
  --jobs N                 mirrors at once [default: 1]
  --concurrency N          requests in flight, of all jobs [default: 64]
  --memory MIB             memory, of all jobs [default: 64]
  --endpoint-url URL       address of an S3-compatible store
  --region R               [default: environment, profile, us-east-1]
  --profile P              profile of the AWS configuration files
  --addressing-style S     auto, path or virtual
  --ca-bundle PEM          CAs to trust besides the system's
  -q, --quiet              errors only
  -v, --verbose            say what is going on; -vv: for finding faults
  --json                   one JSON object a mirror on standard output
  --progress WHEN          bars on standard error: auto, always or never
                           [default: auto: on a terminal]
  --metrics-file FILE      write a Prometheus textfile at the end
  -h, --help               this text
  -V, --version            the version

Example:
  mirror-git-to-s3 refs --target s3://mirrors/project.git

Exit codes: 0 done; 1 failed; 2 usage; 3 some of several; 5 try again later; 12
access denied; 130, 143 interrupted.
";

/// Help for `restore`.
pub(super) const RESTORE: &str = "\
Publish again what a mirror has published once. Everything that those refs reach
is looked for first. The next run of the mirror publishes its source's refs, so
stop that, or restore into another target.

Usage: mirror-git-to-s3 restore --target URL --at TIME [--as URL] [options]

  --target URL             s3://BUCKET/PREFIX or file:///DIRECTORY
  --at TIME                a publication's name (see refs), or a time such as
                           2026-11-24T13:31:31Z: what was published then
  --as URL                 into this target instead of the mirror itself
  -n, --dry-run            say what would change, write nothing
  --storage-class C        of what is written
  --sse S                  of what is written: AES256, aws:kms
  --sse-kms-key-id K       key for --sse aws:kms
  --acl A                  canned ACL of what is written
  --concurrency N          requests in flight [default: 64]
  --memory MIB             memory for packs [default: 64]
  --endpoint-url URL       address of an S3-compatible store
  --region R               [default: environment, profile, us-east-1]
  --profile P              profile of the AWS configuration files
  --addressing-style S     auto, path or virtual
  --ca-bundle PEM          CAs to trust besides the system's
  -q, --quiet              errors only
  -v, --verbose            say what is going on; -vv: for finding faults
  --json                   one JSON object a mirror on standard output
  --progress WHEN          bars on standard error: auto, always or never
                           [default: auto: on a terminal]
  -h, --help               this text
  -V, --version            the version

Example:
  mirror-git-to-s3 restore --target s3://mirrors/a.git --at 20261124T133131Z \\
      --as file:///srv/rescued/a.git

Exit codes: 0 done; 1 failed; 2 usage; 4 LFS objects missing; 5 try again later;
11 another run published meanwhile; 12 access denied; 13 a guard refused; 130,
143 interrupted.
";

/// Help for `completions`.
pub(super) const COMPLETIONS: &str = "\
Print the script that completes this program's options in a shell.

Usage: mirror-git-to-s3 completions bash|fish|zsh

  -h, --help               this text
  -V, --version            the version

Examples:
  mirror-git-to-s3 completions bash > /etc/bash_completion.d/mirror-git-to-s3
  mirror-git-to-s3 completions zsh > ~/.zfunc/_mirror-git-to-s3
  mirror-git-to-s3 completions fish | source

~/.zfunc must be in zsh's fpath. The script for fish needs fish 4.
";

/// What `--version` prints.
pub(super) fn version() -> String {
    format!("mirror-git-to-s3 {}\n", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::{COMPLETIONS, GC, LFS_AGENT, MIRROR, REFS, RESTORE, VERIFY};
    use crate::cli::args::{GcArgs, MirrorArgs, RefsArgs, RestoreArgs, VerifyArgs};
    use crate::cli::command::agent_flags;
    use crate::exit_code::ExitCode;
    use argh::{ArgsInfo, FlagInfo, FlagInfoKind};

    const README: &str = include_str!("../../README.md");

    /// Each option has its line in `help`, and a row in the README's table under `heading`.
    fn assert_told(help: &str, heading: &str, flags: &[FlagInfo<'_>]) {
        let section = README.split("\n## ").find(|text| text.starts_with(heading));
        let table = section.unwrap_or_else(|| panic!("the README has no section {heading}"));
        let given = help.lines().filter_map(|line| line.strip_prefix("  ")).filter_map(|line| {
            let named = line.starts_with("--") || (line.starts_with('-') && line.contains(", --"));
            named.then(|| line.split([' ', ',']).find(|word| word.starts_with("--"))).flatten()
        });
        for long in given.filter(|long| !["--help", "--version"].contains(long)) {
            assert!(flags.iter().any(|flag| flag.long == long), "{heading}: there is no {long}");
        }
        // argh's own `--help` has no letter; `argv.rs` knows it with one.
        for flag in flags.iter().filter(|flag| flag.long != "--help") {
            let line = help
                .lines()
                .filter(|line| line.starts_with("  -"))
                .find(|line| line.trim_start().split([' ', ',']).any(|word| word == flag.long))
                .unwrap_or_else(|| panic!("{heading}: {} is not in the help", flag.long));
            let name = flag.short.map_or(flag.long.to_owned(), |letter| format!("-{letter}, "));
            assert!(line.trim_start().starts_with(&name), "{line}");
            let row = table.lines().find(|line| {
                let cell = line.split(" | ").next().filter(|cell| cell.starts_with("| "));
                cell.is_some_and(|cell| cell.split(['`', ' ']).any(|word| word == flag.long))
            });
            let row =
                row.unwrap_or_else(|| panic!("{heading}: {} is not in the README", flag.long));
            let value = matches!(flag.kind, FlagInfoKind::Option { .. });
            assert_eq!(row.contains(&format!("`{} ", flag.long)), value, "{row}");
        }
    }

    #[test]
    fn help_and_readme_know_every_option_of_every_action() {
        assert_told(MIRROR, "Options\n", MirrorArgs::get_args_info().flags);
        let upkeep = "Options of `verify`, `gc`, `refs`, `restore` and `lfs-agent`\n";
        assert_told(VERIFY, upkeep, VerifyArgs::get_args_info().flags);
        assert_told(GC, upkeep, GcArgs::get_args_info().flags);
        assert_told(REFS, upkeep, RefsArgs::get_args_info().flags);
        assert_told(RESTORE, upkeep, RestoreArgs::get_args_info().flags);
        assert_told(LFS_AGENT, upkeep, &agent_flags());
    }

    #[test]
    fn every_help_has_usage_examples_help_and_version() {
        for text in [MIRROR, VERIFY, GC, REFS, RESTORE, LFS_AGENT, COMPLETIONS] {
            for part in ["\nUsage: mirror-git-to-s3 ", "\nExample", "-h, --help ", "-V, --version "]
            {
                assert!(text.contains(part), "{part} is missing: {text}");
            }
        }
    }

    #[test]
    fn help_and_readme_know_every_exit_code() {
        let codes = MIRROR.split("Exit codes:").nth(1).expect("the help lists exit codes");
        for code in ExitCode::ALL {
            let number = code.code().to_string();
            let words: Vec<&str> = codes.split([' ', ',', '\n']).collect();
            assert!(words.contains(&number.as_str()), "{number}");
            let row = format!("| {number} | {} |", code.when());
            assert!(README.contains(&row), "{row}");
        }
    }

    #[test]
    fn help_fits_80_columns() {
        let all = [MIRROR, VERIFY, GC, REFS, RESTORE, LFS_AGENT, COMPLETIONS];
        for line in all.iter().flat_map(|text| text.lines()) {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}
