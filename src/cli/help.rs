//! The text of `--help`: grouped, with examples, within 80 columns. argh can print neither groups
//! nor defaults, so it only parses; tests hold these texts and argh's tables together. Man pages are
//! made from the same texts (`examples/man.rs`).

/// Options that reach a store.
macro_rules! store {
    () => {
        "  --endpoint-url URL       address of an S3-compatible store [default: AWS]
  --region R               [default: environment, profile, us-east-1]
  --profile P              profile in the AWS configuration files
  --addressing-style S     auto, path or virtual [default: auto: path with
                           --endpoint-url, virtual on AWS]
  --ca-bundle PEM          trust these CAs in addition to the system's
"
    };
}

/// Options for what is written.
macro_rules! written {
    () => {
        "  --storage-class C        storage class of objects written
  --sse S                  encryption at rest: AES256 or aws:kms
  --sse-kms-key-id K       key for --sse aws:kms
  --acl A                  canned ACL of objects written
"
    };
}

macro_rules! verbosity {
    () => {
        "  -q, --quiet              print errors only
  -v, --verbose            print more; -vv for debugging
"
    };
}

macro_rules! progress {
    () => {
        "  --progress WHEN          progress bars on standard error: auto, always, never
                           [default: auto: on a terminal]
"
    };
}

macro_rules! fleet {
    () => {
        "  --manifest FILE          use the targets in a manifest; - for standard input
  --shard I/N              use only share I of N of the manifest (from 0)
  --jobs N                 mirrors processed at once [default: 1]
"
    };
}

macro_rules! help {
    () => {
        "  -h, --help               print this help
  -V, --version            print the version
"
    };
}

/// Help for the default action.
pub(super) const MIRROR: &str = concat!(
    "\
Mirror git repositories to S3-compatible storage. git then clones them from the
bucket over plain HTTP(S), without a server.

Usage: mirror-git-to-s3 --source URL --target s3://BUCKET/PREFIX [options]
  or:  mirror-git-to-s3 --manifest FILE|- [options]
  or:  mirror-git-to-s3 COMMAND [options]

Commands (each has its own --help):
  verify                   check a mirror's integrity, and repair it
  gc                       delete objects that no ref reaches
  list                     list the mirrors below a prefix
  index                    write an index page of the mirrors below a prefix
  refs                     list past publications
  restore                  publish an earlier state again
  export                   write a mirror, or what is new in it, to a file
  import                   import a file written by export
  install-helper           install the git remote helper for mirror:: URLs
  remote-helper            read a mirror with git
  lfs-agent                read a mirror's LFS objects with git-lfs
  completions              print a completion script for bash, fish or zsh

What to mirror:
  --source URL             https://..., http://..., bundle:PATH, - for a bundle
                           on standard input, another mirror (mirror:s3://...,
                           mirror:file:///..., mirror:https://...), or a file
                           written by export (trip:PATH, trip:-); repeatable
  --target URL             s3://BUCKET/PREFIX or file:///DIRECTORY; repeatable,
                           the n-th target belongs to the n-th source
  --manifest FILE          one 'SOURCE TARGET' per line, # for comments; - for
                           standard input
  --shard I/N              mirror only share I of N of the manifest (from 0)
  --refs GLOB              mirror only these refs, for example refs/heads/*;
                           repeatable
  --exclude-refs GLOB      skip these refs; overrides --refs; repeatable
  --no-lfs                 skip LFS objects
  --lfs-dir DIR            read a bundle's LFS objects from here: the .git/lfs
                           of a clone
  --lfs-allow-other-host   follow lfs.url in .lfsconfig to another host
  --max-object-size SIZE   refuse larger objects: 500m, 2g, 5t [default: 5t]

How:
  --layout auto|loose|pack auto: many new objects as a pack, few as loose
                           objects; loose: one S3 object per git object; pack:
                           always packs [default: auto]
  --max-packs N            merge packs in the store when there are more than N
                           [default: 20]
  --full                   read the mirror, fetch everything, and rewrite what
                           is missing or damaged
  --slices                 pack layout: fetch a first run in slices from the
                           start, instead of after the first broken attempt
  --bundle                 also publish clone.bundle and bundle-list, for git
                           clone --bundle-uri (implies --layout pack)
  --no-bundle-uri          do not start a first run from a bundle that the
                           source offers
  --force                  allow deleting all or most refs
  --move-source            allow replacing a mirror of another source
  --keep-history TIME      keep earlier refs, and what they reach, for this
                           long: 90d; 0 turns it off
  -n, --dry-run            print what would change, write nothing
  --jobs N                 repositories mirrored at once [default: 1]
  --concurrency N          store requests in flight, of all jobs [default: 64]
  --memory MIB             working memory, of all jobs [default: 64]
  --fail-fast              start no more repositories after one has failed

Store:
",
    store!(),
    "  --source-endpoint-url URL
                           address of the store of mirror: sources [default of
                           this and the next three: as for the target]
  --source-region R        region of that store
  --source-profile P       profile for that store
  --source-addressing-style S
                           addressing style of that store
",
    written!(),
    "
Connections:
  --source-header-file F   send these header lines to the source, for example
                           Authorization: ...
  --allow-redirect-host    follow a source's redirect to another host
  --low-speed-limit BYTES  abort transfers slower than this many bytes per
                           second [default: 100; 0: never]
  --low-speed-time S       how many seconds a transfer may be that slow
                           [default: 300; 0: no limit]
  --timeout S              abort a repository after this many seconds

Output:
",
    verbosity!(),
    "  --json                   print one JSON object per repository
",
    progress!(),
    "  --metrics-file FILE      write a Prometheus text file at the end
  --index URL              update the index page of the mirrors below URL at
                           the end; see index
  --public-url URL         for --index: where readers find what is below URL
",
    help!(),
    "
Environment (options override it; an empty variable counts as unset):
  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN
                           credentials for the store
  AWS_PROFILE              as --profile; AWS_DEFAULT_PROFILE comes second
  AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE
                           the profile files, instead of those in ~/.aws
  AWS_ROLE_ARN, AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_SESSION_NAME
                           a role by web identity; AWS_ENDPOINT_URL_STS: where
  AWS_CONTAINER_CREDENTIALS_*, AWS_CONTAINER_AUTHORIZATION_TOKEN*
                           a container's role
  AWS_EC2_METADATA_DISABLED
                           true: do not ask the machine for its role;
                           AWS_EC2_METADATA_SERVICE_ENDPOINT: where to ask
  AWS_REGION               as --region; AWS_DEFAULT_REGION comes second
  AWS_ENDPOINT_URL_S3      as --endpoint-url; AWS_ENDPOINT_URL comes second
  AWS_CA_BUNDLE, GIT_SSL_CAINFO
                           CAs to trust too, as with --ca-bundle
  SSL_CERT_FILE            CAs to trust instead of the system's
  AWS_MAX_ATTEMPTS         tries of one store request, including the first
  HTTPS_PROXY, HTTP_PROXY, ALL_PROXY
                           proxies by scheme: http://user:password@host:port
  NO_PROXY                 hosts, domains, addresses and blocks without a
                           proxy; *: all of them
  NETRC                    credentials for sources, instead of ~/.netrc
  GIT_HTTP_LOW_SPEED_LIMIT, GIT_HTTP_LOW_SPEED_TIME
                           as --low-speed-limit and --low-speed-time
  RUST_LOG                 log levels, instead of -q and -v
  NO_COLOR                 bars without colours
  COLUMNS                  width of bars with --progress always and no terminal

Examples:
  mirror-git-to-s3 --source https://host/a.git --target s3://mirrors/a.git
  mirror-git-to-s3 --manifest list.txt --jobs 4
  ssh host cat a.bundle | mirror-git-to-s3 --source - --target s3://mirrors/a

Exit codes: 0 success; 1 failed; 2 usage error; 3 some of several repositories
failed; 4 LFS objects missing; 5 temporary failure, try again later; 11 another
run published meanwhile; 12 access denied; 13 refused by a guard (the message
says why); 130, 143 interrupted.
"
);

/// Help for `lfs-agent`.
pub(super) const LFS_AGENT: &str = concat!(
    "\
Read a mirror's Git LFS objects. git-lfs runs this as its standalone custom
transfer agent, and talks to it on standard input and output.

Usage: mirror-git-to-s3 lfs-agent URL [options]

URL is where the mirror is: https://BUCKET.../PREFIX (as git clones it),
s3://BUCKET/PREFIX (with credentials, as in the AWS CLI) or file:///DIRECTORY.
It comes first.

Options:
",
    store!(),
    verbosity!(),
    help!(),
    "
Example:
  git -c lfs.standalonetransferagent=mirror \\
      -c lfs.customtransfer.mirror.path=mirror-git-to-s3 \\
      -c lfs.customtransfer.mirror.args='lfs-agent https://host/a.git' \\
      clone https://host/a.git
"
);

/// Help for `remote-helper`.
pub(super) const REMOTE_HELPER: &str = "\
Read a mirror with git, also from a private bucket. git runs this program as
git-remote-mirror (see install-helper), and talks to it on standard input and
output.

Usage: git clone mirror::URL [DIRECTORY]

URL is s3://BUCKET/PREFIX (with credentials, as in the AWS CLI), https://... (as
git clones it) or file:///DIRECTORY. Clone, fetch, --depth, --shallow-since,
--filter and ls-remote work; push is refused.

Git config, for all mirrors (mirror.NAME) or those below a URL
(mirror.URL.NAME); the environment overrides it:
  endpoint-url, region, profile, addressing-style, ca-bundle
  trustIndex               true: use the pack indexes in the mirror after
                           checking their checksums, instead of hashing every
                           object

Example:
  git -c mirror.endpoint-url=https://minio.example.com \\
      clone mirror::s3://mirrors/a.git
";

/// Help for `install-helper`.
pub(super) const INSTALL_HELPER: &str = concat!(
    "\
Install this program as git's remote helper for mirror:: URLs. git-lfs uses it
as its transfer agent for them.

Usage: mirror-git-to-s3 install-helper [DIR] [--no-lfs]

Creates the link git-remote-mirror in DIR, which must be in PATH [default: the
directory of this program].

  --no-lfs                 do not change git-lfs's configuration
",
    help!()
);

/// Help for `verify`.
pub(super) const VERIFY: &str = concat!(
    "\
Check a mirror's integrity: refs, every object that they reach, packs, LFS
objects. Findings go to standard output.

Usage: mirror-git-to-s3 verify --target URL [--quick] [options]
  or:  mirror-git-to-s3 verify --target URL --repair [--source URL] [options]

  --target URL             s3://BUCKET/PREFIX, file:///DIRECTORY, or the
                           https://... URL that git clones; repeatable
",
    fleet!(),
    "  --quick                  check blobs, packs and LFS objects by name and size
                           only
  --sample N/T             read N parts of T, the next ones in each run: 1/30
                           daily reads everything in a month
  --repair                 repair what is damaged or missing; without a source
                           only what the mirror itself can provide
  --source URL             for --repair: the repository; the n-th belongs to the
                           n-th target. A manifest names it
  --source-header-file F   for --repair: send these header lines to the source
",
    written!(),
    "  --concurrency N          requests in flight, of all jobs [default: 64]
  --memory MIB             memory for packs, of all jobs [default: 64]
",
    store!(),
    verbosity!(),
    "  --json                   print one JSON object per mirror
",
    progress!(),
    "  --metrics-file FILE      write a Prometheus text file at the end
",
    help!(),
    "
Examples:
  mirror-git-to-s3 verify --target s3://mirrors/project.git
  mirror-git-to-s3 verify --target https://example.com/project.git --quick
  mirror-git-to-s3 verify --target s3://mirrors/a.git --repair \\
      --source https://host/a.git

Exit codes: 0 sound, or repaired; 1 damaged, or failed; 2 usage error; 3 some of
several; 5 try again later; 12 access denied; 130, 143 interrupted.
"
);

/// Help for `gc`.
pub(super) const GC: &str = concat!(
    "\
Delete objects that no ref of a mirror reaches, and packs that are not listed.
It may run at the same time as mirroring: a mirroring run that conflicts with gc
exits with 11, and the next one succeeds.

Usage: mirror-git-to-s3 gc --target URL [--grace 24h] [-n] [options]

  --target URL             s3://BUCKET/PREFIX or file:///DIRECTORY; repeatable
",
    fleet!(),
    "  --grace TIME             keep anything newer than this: 90s, 30m, 24h, 7d;
                           should be longer than the longest run [default: 24h]
  -n, --dry-run            list what would be deleted, delete nothing
  --concurrency N          requests in flight, of all jobs [default: 64]
  --memory MIB             memory for packs, of all jobs [default: 64]
",
    store!(),
    verbosity!(),
    "  --json                   print one JSON object per mirror
",
    progress!(),
    "  --metrics-file FILE      write a Prometheus text file at the end
",
    help!(),
    "
Examples:
  mirror-git-to-s3 gc --target s3://mirrors/project.git -n
  mirror-git-to-s3 gc --target file:///srv/mirrors/project.git --grace 7d

Exit codes: 0 success; 1 failed; 2 usage error; 3 some of several; 5 try again
later; 11 a run published meanwhile; 12 access denied; 13 refs are not those
that were recorded; 130, 143 interrupted.
"
);

/// Help for `list`.
pub(super) const LIST: &str = concat!(
    "\
List the mirrors below a prefix. For each: name, last publication, last check,
layout, refs, packs, objects, size, LFS, missing LFS objects, source, clone URL;
- for what is not recorded.

Usage: mirror-git-to-s3 list --target s3://BUCKET/[PREFIX] [options]

  --target URL             s3://BUCKET/PREFIX or file:///DIRECTORY; repeatable
  --public-url URL         where readers find what is below the target [default:
                           the store's own address]
  --count                  count objects and bytes by listing every mirror,
                           instead of printing what runs have recorded
  --concurrency N          requests in flight [default: 64]
",
    store!(),
    verbosity!(),
    "  --json                   print one JSON object per mirror
",
    help!(),
    "
Examples:
  mirror-git-to-s3 list --target s3://mirrors
  mirror-git-to-s3 list --target s3://mirrors/team --json

Exit codes: 0 success; 1 failed, or a mirror's state is damaged; 2 usage error;
5 try again later; 12 access denied; 130, 143 interrupted.
"
);

/// Help for `index`.
pub(super) const INDEX: &str = concat!(
    "\
Write an index page of the mirrors below a prefix: index.html and index.json.
They have search, clone commands, ages and sizes, and are rewritten only if
something changed.

Usage: mirror-git-to-s3 index --target s3://BUCKET/[PREFIX] [options]

  --target URL             s3://BUCKET/PREFIX or file:///DIRECTORY
  --public-url URL         where readers find what is below the target [default:
                           the store's own address]
  --count                  count objects and bytes by listing every mirror,
                           instead of printing what runs have recorded
  --concurrency N          requests in flight [default: 64]
",
    store!(),
    verbosity!(),
    "  --json                   print the result as JSON
",
    help!(),
    "
Example:
  mirror-git-to-s3 index --target s3://mirrors \\
      --public-url https://mirrors.example.com

Exit codes: 0 success; 1 failed; 2 usage error; 5 try again later; 12 access
denied; 13 the target is a mirror itself; 130, 143 interrupted.
"
);

/// Help for `export`.
pub(super) const EXPORT: &str = concat!(
    "\
Write what another mirror is missing to one file, including LFS objects. Carry
or pipe it to the other side, where import reads it.

Usage: mirror-git-to-s3 export --target URL [--since STATE] -o FILE|- [options]

  --target URL             the mirror to read: s3://BUCKET/PREFIX, file:///DIR
  --since STATE            state of the other mirror, written there by import
                           --state-out [default: the other side has nothing]
  -o, --output FILE        the file to write, a tar; - for standard output
  --no-lfs                 skip LFS objects
  --concurrency N          requests in flight [default: 64]
  --memory MIB             working memory [default: 64]
",
    store!(),
    verbosity!(),
    "  --json                   print the result as JSON
",
    help!(),
    "
Examples:
  mirror-git-to-s3 export --target s3://mirrors/a.git -o trip1.tar
  mirror-git-to-s3 export --target s3://mirrors/a.git --since a.state -o 2.tar
  mirror-git-to-s3 export --target s3://mirrors/a.git -o - | ssh inside \\
      mirror-git-to-s3 import --target s3://inner/a.git -

Exit codes: 0 success; 1 failed, or a key is damaged; 2 usage error; 5 try again
later; 12 access denied; 13 the state is of another repository; 130, 143
interrupted.
"
);

/// Help for `import`.
pub(super) const IMPORT: &str = concat!(
    "\
Read a file written by export, check each key and publish. The mirror then
matches the exported one. The same as --source trip:FILE.

Usage: mirror-git-to-s3 import --target URL FILE|- [--state-out STATE] [options]
  or:  mirror-git-to-s3 import --target URL --state-out STATE [options]

  --target URL             the mirror to fill: s3://BUCKET/PREFIX, file:///DIR
  --state-out STATE        write what the mirror has now to this file, for the
                           next export --since
  --no-lfs                 skip LFS objects
  --force                  allow deleting all or most refs
  --move-source            allow replacing a mirror of another source
  -n, --dry-run            print what would change, write nothing
  --concurrency N          requests in flight [default: 64]
  --memory MIB             working memory [default: 64]
",
    store!(),
    written!(),
    verbosity!(),
    "  --json                   print the result as JSON
",
    progress!(),
    help!(),
    "
Example:
  mirror-git-to-s3 import --target s3://inner/a.git 1.tar --state-out a.state

Exit codes: as for mirroring; 1 also for a file that is damaged, cut short, or
made for a mirror that has more than this one.
"
);

/// Help for `refs`.
pub(super) const REFS: &str = concat!(
    "\
List what a mirror has published, and what changed each time. Mirrors keep this
if they are made with --keep-history.

Usage: mirror-git-to-s3 refs --target URL [options]

  --target URL             s3://BUCKET/PREFIX or file:///DIRECTORY; repeatable
",
    fleet!(),
    "  --concurrency N          requests in flight, of all jobs [default: 64]
  --memory MIB             memory, of all jobs [default: 64]
",
    store!(),
    verbosity!(),
    "  --json                   print one JSON object per mirror
",
    progress!(),
    "  --metrics-file FILE      write a Prometheus text file at the end
",
    help!(),
    "
Example:
  mirror-git-to-s3 refs --target s3://mirrors/project.git

Exit codes: 0 success; 1 failed; 2 usage error; 3 some of several; 5 try again
later; 12 access denied; 130, 143 interrupted.
"
);

/// Help for `restore`.
pub(super) const RESTORE: &str = concat!(
    "\
Publish an earlier state of a mirror again. Everything that its refs reach is
checked first. The next run of the mirror publishes its source's refs again, so
stop that run, or restore into another target.

Usage: mirror-git-to-s3 restore --target URL --at TIME [--as URL] [options]

  --target URL             s3://BUCKET/PREFIX or file:///DIRECTORY
  --at TIME                a publication's name (see refs), or a time such as
                           2026-11-24T13:31:31Z: what was published then
  --as URL                 write to this target instead of the mirror itself
  -n, --dry-run            print what would change, write nothing
",
    written!(),
    "  --concurrency N          requests in flight [default: 64]
  --memory MIB             memory for packs [default: 64]
",
    store!(),
    verbosity!(),
    "  --json                   print one JSON object per mirror
",
    progress!(),
    help!(),
    "
Example:
  mirror-git-to-s3 restore --target s3://mirrors/a.git --at 20261124T133131Z \\
      --as file:///srv/rescued/a.git

Exit codes: 0 success; 1 failed; 2 usage error; 4 LFS objects missing; 5 try
again later; 11 another run published meanwhile; 12 access denied; 13 refused by
a guard; 130, 143 interrupted.
"
);

/// Help for `completions`.
pub(super) const COMPLETIONS: &str = concat!(
    "\
Print a shell completion script.

Usage: mirror-git-to-s3 completions bash|fish|zsh

",
    help!(),
    "
Examples:
  mirror-git-to-s3 completions bash > /etc/bash_completion.d/mirror-git-to-s3
  mirror-git-to-s3 completions zsh > ~/.zfunc/_mirror-git-to-s3
  mirror-git-to-s3 completions fish | source

~/.zfunc must be in zsh's fpath. The script for fish needs fish 4.
"
);

/// Every help text by its sub-command; the default action's has no name. Man pages are made from these
/// (`examples/man.rs`).
pub fn help_texts() -> [(&'static str, &'static str); 13] {
    [
        ("", MIRROR),
        ("verify", VERIFY),
        ("gc", GC),
        ("list", LIST),
        ("index", INDEX),
        ("refs", REFS),
        ("restore", RESTORE),
        ("export", EXPORT),
        ("import", IMPORT),
        ("lfs-agent", LFS_AGENT),
        ("remote-helper", REMOTE_HELPER),
        ("install-helper", INSTALL_HELPER),
        ("completions", COMPLETIONS),
    ]
}

/// What `--version` prints.
pub(super) fn version() -> String {
    format!("mirror-git-to-s3 {}\n", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{
        CatalogArgs, ExportArgs, GcArgs, ImportArgs, MirrorArgs, RefsArgs, RestoreArgs, VerifyArgs,
    };
    use crate::cli::lfs_agent::agent_flags;
    use crate::exit_code::ExitCode;
    use argh::{ArgsInfo, FlagInfo};

    const README: &str = include_str!("../../README.md");

    /// The long options that have a line in a help.
    fn options(help: &str) -> impl Iterator<Item = &str> {
        help.lines().filter_map(|line| line.strip_prefix("  ")).filter_map(|line| {
            let named = line.starts_with("--") || (line.starts_with('-') && line.contains(", --"));
            named.then(|| line.split([' ', ',']).find(|word| word.starts_with("--"))).flatten()
        })
    }

    /// Each option has its line in `help`, and the other way round.
    fn assert_listed(help: &str, flags: &[FlagInfo<'_>]) {
        for long in options(help).filter(|long| !["--help", "--version"].contains(long)) {
            assert!(flags.iter().any(|flag| flag.long == long), "there is no {long}\n{help}");
        }
        // argh's own `--help` has no letter; `argv.rs` knows it with one.
        for flag in flags.iter().filter(|flag| flag.long != "--help") {
            let line = help
                .lines()
                .filter(|line| line.starts_with("  -"))
                .find(|line| line.trim_start().split([' ', ',']).any(|word| word == flag.long))
                .unwrap_or_else(|| panic!("{} is not in the help\n{help}", flag.long));
            let name = flag.short.map_or(flag.long.to_owned(), |letter| format!("-{letter}, "));
            assert!(line.trim_start().starts_with(&name), "{line}");
        }
    }

    #[test]
    fn help_knows_every_option_of_every_action() {
        assert_listed(MIRROR, MirrorArgs::get_args_info().flags);
        assert_listed(VERIFY, VerifyArgs::get_args_info().flags);
        assert_listed(GC, GcArgs::get_args_info().flags);
        assert_listed(LIST, CatalogArgs::get_args_info().flags);
        assert_listed(INDEX, CatalogArgs::get_args_info().flags);
        assert_listed(REFS, RefsArgs::get_args_info().flags);
        assert_listed(RESTORE, RestoreArgs::get_args_info().flags);
        assert_listed(EXPORT, ExportArgs::get_args_info().flags);
        assert_listed(IMPORT, ImportArgs::get_args_info().flags);
        assert_listed(LFS_AGENT, &agent_flags());
    }

    #[test]
    fn each_option_in_the_readme_is_in_a_help() {
        let known: Vec<&str> = help_texts().iter().flat_map(|(_, help)| options(help)).collect();
        // Rows of tables: `--option VALUE` in the first cell.
        let rows = README.lines().filter_map(|line| line.strip_prefix("| `"));
        let named =
            rows.flat_map(|row| row.split(" | ").next().unwrap_or_default().split(['`', ' ']));
        let mut count = 0;
        for long in named.filter(|word| word.starts_with("--")) {
            assert!(known.contains(&long.trim_end_matches(',')), "{long}");
            count += 1;
        }
        assert!(count > 10, "the README has no table of options");
    }

    #[test]
    fn every_command_is_in_the_main_help() {
        for (command, _) in help_texts().iter().filter(|(command, _)| !command.is_empty()) {
            assert!(MIRROR.contains(&format!("\n  {command} ")), "{command}");
        }
    }

    #[test]
    fn every_help_has_usage_examples_help_and_version() {
        for (command, text) in help_texts() {
            if command == "remote-helper" || command == "install-helper" {
                continue;
            }
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
        for line in help_texts().iter().flat_map(|(_, text)| text.lines()) {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}
