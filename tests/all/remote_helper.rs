//! `git clone mirror::…` with the `git` of this machine, from a private bucket: a real S3 server in
//! this process, which verifies signatures and answers 403 to whoever has none. Source: the real
//! `git http-backend`.

use crate::support::{git_http, local_git, s3_server};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use git_http::{GitHttp, StaticHttp};
use local_git::{Repo, all_objects, all_refs, assert_same_repository, git, run};
use s3_server::S3Server;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mirror-git-to-s3");

/// A bucket that nobody reads without a signature, and a folder with the helper in it.
struct World {
    folder: tempfile::TempDir,
    s3: S3Server,
    source: GitHttp,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("buckets/bucket")).unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        let link = folder.path().join("bin/git-remote-mirror");
        std::os::unix::fs::symlink(PROGRAM, link).unwrap();
        let s3 = S3Server::start(folder.path().join("buckets"));
        let source = GitHttp::start(&std::env::temp_dir(), git_http::Options::default());
        World { folder, s3, source }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn bucket(&self, name: &str) -> PathBuf {
        self.path("buckets/bucket").join(name)
    }

    fn with_keys<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .env("AWS_ACCESS_KEY_ID", &self.s3.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &self.s3.secret_key)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("NO_PROXY", "*")
            .env("AWS_ENDPOINT_URL_S3", self.s3.endpoint())
    }

    /// Mirrors `repo` to `s3://bucket/NAME`.
    fn mirror(&self, repo: &Repo, name: &str, more: &[&str]) {
        let folder = repo.path().file_name().unwrap().to_str().unwrap();
        let source = format!("{}/{folder}", self.source.url());
        let target = format!("s3://bucket/{name}");
        let mut command = Command::new(PROGRAM);
        command.args(["--source", &source, "--target", &target, "-q"]).args(more);
        run(self.with_keys(command.stdin(Stdio::null())), b"");
    }

    fn search_path(&self) -> OsString {
        let mut path = self.path("bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap());
        path
    }

    /// git, which finds the helper and has the keys.
    fn git(&self, dir: &Path, words: &[&str]) -> Command {
        let mut command = git(dir);
        command.args(words).env("PATH", self.search_path());
        self.with_keys(&mut command);
        command
    }

    fn run(&self, dir: &Path, words: &[&str]) -> String {
        String::from_utf8(run(&mut self.git(dir, words), b"")).unwrap().trim_end().to_owned()
    }

    /// Runs git, which must fail; what it says.
    fn fails(&self, dir: &Path, words: &[&str]) -> String {
        let output = self.git(dir, words).output().unwrap();
        assert!(!output.status.success(), "git {words:?} succeeds");
        String::from_utf8(output.stderr).unwrap()
    }

    fn clone(&self, name: &str, to: &str, more: &[&str]) -> PathBuf {
        let url = format!("mirror::s3://bucket/{name}");
        self.run(self.folder.path(), &[&["clone", "-q"], more, &[&url, to]].concat());
        self.path(to)
    }
}

fn fsck(dir: &Path) {
    let out = git(dir).args(["fsck", "--full", "--strict", "--no-dangling"]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && !text.contains("error"), "{text}");
}

/// No temporary file, no lock on a pack.
fn assert_tidy(dir: &Path) {
    let out = git(dir).args(["rev-parse", "--git-path", "objects"]).output().unwrap();
    let objects = dir.join(String::from_utf8(out.stdout).unwrap().trim());
    let mut folders = vec![objects];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            assert!(!name.starts_with("tmp_") && !name.ends_with(".keep"), "{:?}", entry.path());
            if entry.path().is_dir() {
                folders.push(entry.path());
            }
        }
    }
}

/// Branches, tags of all sorts, and files that grow, so that there are deltas.
fn all_sorts() -> Repo {
    let repo = Repo::new();
    grow(&repo, 0..30);
    repo.commit("refs/heads/side/branch", &[("alone", b"")]);
    repo.git(&["tag", "light", "main~3"]);
    repo.git(&["tag", "-a", "-m", "annotated", "v1", "main~2"]);
    repo.git(&["tag", "-a", "-m", "a tag of a tag", "v1-again", "v1"]);
    let blob = repo.blob(b"a blob that only a tag reaches\n");
    repo.git(&["tag", "-a", "-m", "of a blob", "blob", &blob]);
    repo.git(&["notes", "add", "-m", "a note", "main"]);
    repo
}

/// Commits on `main` whose files grow.
fn grow(repo: &Repo, rounds: std::ops::Range<u32>) {
    for round in rounds {
        let text: String =
            (0..=round).map(|n| format!("line {n} of a file that grows\n")).collect();
        let other = format!("{round}\n");
        repo.commit(
            "refs/heads/main",
            &[("grows", text.as_bytes()), ("other", other.as_bytes()), ("same", b"same\n")],
        );
    }
}

#[test]
fn private_bucket_is_cloned_and_fetched_by_who_has_the_keys_and_by_nobody_else() {
    let (world, repo) = (World::new(), all_sorts());
    for layout in ["pack", "loose"] {
        world.mirror(&repo, layout, &["--layout", layout]);
        let anonymous = format!("{}/bucket/{layout}", world.s3.endpoint());
        let error = world.fails(world.folder.path(), &["clone", &anonymous, "stock"]);
        assert!(error.contains("403"), "{error}");
        let clone = world.clone(layout, &format!("{layout}.clone"), &["--mirror"]);
        assert_same_repository(repo.path(), &clone);
        fsck(&clone);
        assert_tidy(&clone);
        let url = format!("mirror::s3://bucket/{layout}");
        let mut refused = world.git(world.folder.path(), &["ls-remote", &url]);
        refused.env("AWS_SECRET_ACCESS_KEY", "not the key");
        let output = refused.output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains("403"), "{error}");
        assert!(!error.contains("not the key") && !error.contains("Signature="), "{error}");
    }
}

#[test]
fn each_kind_of_change_is_fetched() {
    for (layout, more) in [("pack", &["--max-packs", "3"][..]), ("loose", &[])] {
        let (world, repo) = (World::new(), all_sorts());
        let more = if layout == "pack" && !supports(more) { &[] } else { more };
        let words = [&["--layout", layout], more].concat();
        world.mirror(&repo, "a", &words);
        let clone = world.clone("a", "clone", &["--mirror"]);
        let changes: [&dyn Fn(); 6] = [
            &|| grow(&repo, 30..34),
            &|| drop(repo.git(&["tag", "-f", "-a", "-m", "new", "v2", "main"])),
            &|| drop(repo.git(&["branch", "-f", "new/branch", "main~10"])),
            &|| drop(repo.git(&["update-ref", "refs/heads/main", "main~6"])),
            &|| drop(repo.commit("refs/heads/orphan", &[("first", b"of another history\n")])),
            &|| drop(repo.git(&["update-ref", "-d", "refs/heads/side/branch"])),
        ];
        for (number, change) in changes.iter().enumerate() {
            change();
            world.mirror(&repo, "a", &words);
            world.run(&clone, &["fetch", "-q", "--prune"]);
            assert_eq!(all_refs(&clone), repo.refs(), "{layout}: change {number}");
            assert_eq!(all_objects(&clone), repo.objects(), "{layout}: change {number}");
            fsck(&clone);
            assert_tidy(&clone);
            if number == 2 {
                world.run(&clone, &["gc", "-q", "--prune=now"]);
            }
        }
        // Nothing new: refs and HEAD are all that is read.
        let before = world.s3.requests();
        world.run(&clone, &["fetch", "-q"]);
        assert!(world.s3.requests() - before <= 2, "{:?}", world.s3.seen());
    }
}

/// Is the option known to this build? Compaction comes with another part of the program.
fn supports(words: &[&str]) -> bool {
    let help = Command::new(PROGRAM).arg("--help").output().unwrap();
    words.is_empty() || String::from_utf8_lossy(&help.stdout).contains(words[0])
}

#[test]
fn clone_of_many_packs_is_one_pack_and_the_stored_index_is_taken_if_it_is_trusted() {
    let (world, repo) = (World::new(), all_sorts());
    world.mirror(&repo, "a", &["--layout", "pack"]);
    for round in 0..3 {
        grow(&repo, 30 + 2 * round..32 + 2 * round);
        world.mirror(&repo, "a", &["--layout", "pack"]);
    }
    let list = fs::read_to_string(world.bucket("a/objects/info/packs")).unwrap();
    assert!(list.matches("P pack-").count() > 1, "{list}");
    for trust in ["false", "true"] {
        let before = world.s3.requests();
        let config = format!("mirror.trustIndex={trust}");
        let url = "mirror::s3://bucket/a";
        let mut clone =
            world.git(world.folder.path(), &["-c", &config, "clone", "-q", "--mirror", url, trust]);
        let trace = world.path(&format!("{trust}.trace"));
        run(clone.env("GIT_TRACE", &trace), b"");
        let clone = world.path(trust);
        let packs = fs::read_dir(clone.join("objects/pack")).unwrap().flatten();
        let packs = packs.filter(|entry| entry.path().extension().is_some_and(|e| e == "pack"));
        assert_eq!(packs.count(), 1);
        assert_same_repository(repo.path(), &clone);
        fsck(&clone);
        assert_tidy(&clone);
        let asked = world.s3.seen()[before as usize..].to_vec();
        let indices = asked.iter().filter(|line| line.contains(".idx")).count();
        assert_eq!(indices > 0, trust == "true", "{asked:?}");
        // What was proved, or is believed, is not looked through again.
        let trace = fs::read_to_string(trace).unwrap();
        let walks = trace.lines().filter(|line| line.contains("rev-list --objects --stdin"));
        for walk in walks {
            assert!(walk.contains("--not"), "{walk}");
        }
    }
}

#[test]
fn damaged_pack_is_an_error_and_leaves_no_clone() {
    let (world, repo) = (World::new(), all_sorts());
    world.mirror(&repo, "a", &["--layout", "pack"]);
    let packs = world.bucket("a/objects/pack");
    let pack = fs::read_dir(&packs).unwrap().flatten().map(|entry| entry.path());
    let pack = pack.into_iter().find(|path| path.extension().is_some_and(|e| e == "pack")).unwrap();
    let whole = fs::read(&pack).unwrap();
    for at in [20, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        fs::write(&pack, bytes).unwrap();
        for trust in ["false", "true"] {
            let config = format!("mirror.trustIndex={trust}");
            let words = ["-c", &config, "clone", "-q", "mirror::s3://bucket/a", "x"];
            let error = world.fails(world.folder.path(), &words);
            assert!(error.contains("is damaged"), "{at}: {error}");
            assert!(!world.path("x").exists());
        }
    }
}

#[test]
fn object_that_is_missing_is_named_wherever_it_is() {
    let (world, repo) = (World::new(), all_sorts());
    world.mirror(&repo, "a", &["--layout", "loose"]);
    for (name, depth) in [
        ("main", "1"),
        ("main^{tree}", "1"),
        ("main:grows", "1"),
        ("main~9", "1000"),
        ("main~9^{tree}", "1000"),
        ("main~1", "2"),
        ("main~9", ""),
        ("main~9^{tree}", ""),
    ] {
        let oid = repo.git(&["rev-parse", name]);
        let (folder, rest) = oid.trim().split_at(2);
        let object = world.bucket(&format!("a/objects/{folder}/{rest}"));
        let bytes = fs::read(&object).unwrap();
        fs::remove_file(&object).unwrap();
        let mut words = vec!["clone", "-q", "-b", "main", "--single-branch"];
        if !depth.is_empty() {
            words.extend(["--depth", depth]);
        }
        words.extend(["mirror::s3://bucket/a", "x"]);
        let error = world.fails(world.folder.path(), &words);
        assert!(error.contains(oid.trim()), "{name}: {error}");
        assert!(!world.path("x").exists(), "{name}");
        fs::write(&object, bytes).unwrap();
    }
}

#[test]
fn object_that_is_not_what_a_tree_says_is_an_error() {
    let (world, repo) = (World::new(), Repo::new());
    let blob = repo.blob(b"a file\n");
    repo.commit("refs/heads/main", &[("file", b"a file\n")]);
    let tree = repo.git(&["rev-parse", "main^{tree}"]);
    for (number, entry) in [("40000", &blob), ("100644", &tree)].into_iter().enumerate() {
        let (mode, oid) = (entry.0, entry.1.trim());
        let mut content = format!("{mode} odd\0").into_bytes();
        let byte = |at: usize| u8::from_str_radix(&oid[at..at + 2], 16).unwrap();
        content.extend((0..oid.len()).step_by(2).map(byte));
        let mut hash = git(repo.path());
        hash.args(["hash-object", "-t", "tree", "--literally", "-w", "--stdin"]);
        let odd = String::from_utf8(run(&mut hash, &content)).unwrap();
        let commit = repo.git(&["commit-tree", "-m", "odd", odd.trim()]);
        repo.git(&["update-ref", "refs/heads/main", commit.trim()]);
        // A repository that is served as files is a mirror.
        repo.git(&["update-server-info"]);
        let bucket = world.bucket(&format!("odd{number}"));
        let mut copy = Command::new("cp");
        run(copy.arg("-r").arg(repo.path()).arg(&bucket), b"");
        let url = format!("mirror::s3://bucket/odd{number}");
        for more in [&["--depth", "1"][..], &[], &["--filter=blob:limit=1m"]] {
            let words = [&["clone", "-q"], more, &[&url, "x"]].concat();
            let error = world.fails(world.folder.path(), &words);
            assert!(error.contains(oid) && error.contains("expected kind"), "{error}");
        }
    }
}

/// What no compressor makes smaller.
fn hashed(number: u64) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    number.hash(&mut hasher);
    hasher.finish()
}

#[test]
fn killed_fetch_is_completed_by_the_next_one() {
    let (world, repo) = (World::new(), all_sorts());
    let noise: Vec<u8> = (0..625_000u64).flat_map(|n| hashed(n).to_le_bytes()).collect();
    repo.commit("refs/heads/main", &[("noise", &noise)]);
    world.mirror(&repo, "a", &["--layout", "pack"]);
    let clone = world.path("clone");
    world.run(world.folder.path(), &["init", "-q", "--bare", "-b", "main", "clone"]);
    world.run(&clone, &["remote", "add", "--mirror=fetch", "origin", "mirror::s3://bucket/a"]);
    let folder = clone.join("objects/pack");
    let part = || {
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "part"))
    };
    // As a killed run leaves it: a part that is right, and one that is not.
    world.run(&clone, &["fetch", "-q"]);
    let installed = fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.path());
    let pack = installed.into_iter().find(|path| path.extension().is_some_and(|e| e == "pack"));
    let pack = fs::read(pack.unwrap()).unwrap();
    assert_eq!(part(), None);
    let name = {
        // Its name is that of the list that it is made of.
        let mut child = world.git(&clone, &["fetch", "-q"]);
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        let mut child = child.spawn().unwrap();
        let begun = std::time::Instant::now();
        let name = loop {
            if let Some(path) = part() {
                break Some(path);
            }
            if begun.elapsed().as_secs() > 20 || child.try_wait().unwrap().is_some() {
                break None;
            }
        };
        child.wait().unwrap();
        name.expect("it is seen while it is downloaded")
    };
    for (kept, is_right) in [(3_000_000, true), (12, true), (5, true), (3_000_000, false)] {
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        let mut bytes = pack[..kept].to_vec();
        if !is_right {
            bytes[1_000_000] ^= 1;
        }
        fs::write(&name, bytes).unwrap();
        if !is_right {
            let error = world.fails(&clone, &["fetch", "-q"]);
            assert!(error.contains("damaged"), "{error}");
        }
        let before = world.s3.requests();
        world.run(&clone, &["fetch", "-q"]);
        let asked = world.s3.seen()[before as usize..].to_vec();
        let pieces = asked.iter().filter(|line| line.starts_with("GET") && line.contains(".pack"));
        let least = if kept > 1_000_000 && is_right { 2 } else { 5 };
        assert!((least..=least + 2).contains(&pieces.count()), "{kept}: {asked:?}");
        assert_same_repository(repo.path(), &clone);
        fsck(&clone);
        assert_tidy(&clone);
    }
}

#[test]
fn worktrees_submodules_and_pushes_are_as_with_other_remotes() {
    let (world, repo, outer) = (World::new(), all_sorts(), Repo::new());
    world.mirror(&repo, "group/inner", &["--layout", "pack"]);
    let tip = repo.rev("main").unwrap();
    let modules = outer.blob(b"[submodule \"in\"]\n\tpath = in\n\turl = ../inner\n");
    let tree = format!("100644 blob {modules}\t.gitmodules\n160000 commit {tip}\tin\n");
    let tree = outer.git_with_input(&["mktree"], tree.as_bytes());
    let commit = outer.git(&["commit-tree", &tree, "-m", "with a submodule"]);
    outer.git(&["update-ref", "refs/heads/main", &commit]);
    world.mirror(&outer, "group/outer", &["--layout", "pack"]);
    let url = "mirror::s3://bucket/group/outer";
    let words =
        ["-c", "protocol.mirror.allow=always", "clone", "-q", "--recurse-submodules", url, "c"];
    world.run(world.folder.path(), &words);
    let clone = world.path("c");
    assert_eq!(world.run(&clone.join("in"), &["rev-parse", "HEAD"]), tip);
    fsck(&clone);
    // From a worktree, whose .git is a file.
    world.run(&clone, &["worktree", "add", "-q", "../tree", "-b", "work"]);
    outer.commit("refs/heads/main", &[("new", b"file\n")]);
    world.mirror(&outer, "group/outer", &["--layout", "pack"]);
    let tree = world.path("tree");
    world.run(&tree, &["fetch", "-q"]);
    assert_eq!(Some(world.run(&tree, &["rev-parse", "origin/main"])), outer.rev("main"));
    fsck(&tree);
    assert_tidy(&tree);
    let error = world.fails(&tree, &["push", "origin", "work:work"]);
    assert!(error.contains("a mirror is read-only"), "{error}");
    let error = world.fails(&tree, &["clone", "-q", "mirror::s3://bucket/nowhere", "x"]);
    assert!(error.contains("there is no mirror at s3://bucket/nowhere"), "{error}");
}

#[test]
fn folders_and_plain_http_are_read_and_config_names_the_store() {
    let (world, repo) = (World::new(), all_sorts());
    world.mirror(&repo, "a", &["--layout", "pack"]);
    let folder = format!("mirror::file://{}", world.bucket("a").display());
    world.run(world.folder.path(), &["clone", "-q", "--mirror", &folder, "by-folder"]);
    assert_same_repository(repo.path(), &world.path("by-folder"));
    let server = StaticHttp::start(&world.bucket(""));
    let url = format!("mirror::{}/a", server.url().replace("http://", "http://user:secret@"));
    let output =
        world.git(world.folder.path(), &["clone", "--mirror", &url, "by-http"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert_same_repository(repo.path(), &world.path("by-http"));
    let sent = server.seen();
    assert!(sent.iter().all(|seen| seen.header("authorization").is_some()));
    let key = format!("mirror.s3://bucket.endpoint-url={}", world.s3.endpoint());
    let words = ["-c", &key, "ls-remote", "mirror::s3://bucket/a", "HEAD"];
    let mut by_config = world.git(world.folder.path(), &words);
    by_config.env_remove("AWS_ENDPOINT_URL_S3");
    let found = String::from_utf8(run(&mut by_config, b"")).unwrap();
    assert!(found.starts_with(&repo.rev("main").unwrap()), "{found}");
}

/// Two lines of history that are merged, with dates a day apart, and folders in folders.
fn with_dates() -> Repo {
    let repo = Repo::new();
    let mut tips = [None, None];
    for day in 0..12_u32 {
        let side = (day % 3 == 1) as usize;
        let text: String = (0..=day).map(|n| format!("line {n}\n")).collect();
        let blob = repo.blob(text.as_bytes());
        let deep =
            repo.git_with_input(&["mktree"], format!("100644 blob {blob}\tdeep\n").as_bytes());
        let big = repo.blob(&vec![b'a' + day as u8; 5000]);
        let tree = format!(
            "100644 blob {big}\tbig\n040000 tree {deep}\tfolder\n100644 blob {blob}\ttop\n"
        );
        let tree = repo.git_with_input(&["mktree"], tree.as_bytes());
        let mut words = vec!["commit-tree".to_owned(), tree, "-m".into(), format!("day {day}")];
        for parent in
            [&tips[side], &tips[1 - side]].into_iter().take(1 + (day == 9) as usize).flatten()
        {
            words.extend(["-p".into(), String::clone(parent)]);
        }
        let date = format!("{} +0000", 1_700_000_000 + 86_400 * day);
        let mut command = git(repo.path());
        command.args(&words).env("GIT_COMMITTER_DATE", &date).env("GIT_AUTHOR_DATE", &date);
        let oid = String::from_utf8(run(&mut command, b"")).unwrap().trim().to_owned();
        tips[side] = Some(oid);
    }
    repo.git(&["update-ref", "refs/heads/main", tips[0].as_ref().unwrap()]);
    repo.git(&["update-ref", "refs/heads/side", tips[1].as_ref().unwrap()]);
    repo.git(&["tag", "-a", "-m", "tip", "v1", "main"]);
    repo.git(&["tag", "-a", "-m", "old", "v0", "main~4"]);
    repo
}

/// Commits that all refs reach, where history is cut off, and all refs. A first commit can't be cut off,
/// though upload-pack lists one that is just as deep as was asked for.
fn shape(world: &World, repo: &Repo, dir: &Path) -> (Vec<String>, String, String) {
    let mut commits: Vec<String> =
        world.run(dir, &["rev-list", "--all"]).lines().map(str::to_owned).collect();
    commits.sort();
    let file = world.run(dir, &["rev-parse", "--git-path", "shallow"]);
    let shallow = fs::read_to_string(dir.join(file)).unwrap_or_default();
    let first = repo.git(&["rev-list", "--max-parents=0", "--all"]);
    let is_first = |oid: &&str| first.lines().any(|line| line == *oid);
    let mut shallow: Vec<&str> = shallow.lines().filter(|oid| !is_first(oid)).collect();
    shallow.sort();
    (commits, shallow.join("\n"), world.run(dir, &["for-each-ref", "refs"]))
}

/// Runs the same commands on a clone of the mirror and on one of the source over smart HTTP: both must
/// have the same history after each.
fn same_as_smart(world: &World, repo: &Repo, name: &str, clone: &[&str], then: &[&[&str]]) {
    let folder = repo.path().file_name().unwrap().to_str().unwrap();
    let source = format!("{}/{folder}", world.source.url());
    let mirror = format!("mirror::s3://bucket/{name}");
    let root = tempfile::tempdir_in(world.folder.path()).unwrap().keep();
    world.run(&root, &[&["clone", "-q"], clone, &[&source, "smart"]].concat());
    world.run(&root, &[&["clone", "-q"], clone, &[&mirror, "ours"]].concat());
    let (smart, ours) = (root.join("smart"), root.join("ours"));
    assert_eq!(shape(world, repo, &ours), shape(world, repo, &smart), "{clone:?}");
    for words in then {
        world.run(&smart, words);
        world.run(&ours, words);
        assert_eq!(shape(world, repo, &ours), shape(world, repo, &smart), "{clone:?}, {words:?}");
        assert_tidy(&ours);
    }
    fsck(&ours);
}

#[test]
fn history_is_cut_off_and_deepened_as_over_smart_http() {
    let (world, repo) = (World::new(), with_dates());
    for (name, layout) in [("pack", "pack"), ("loose", "loose")] {
        world.mirror(&repo, name, &["--layout", layout]);
        let since = "--shallow-since=2023-11-19T00:00:00Z";
        let all: [(&[&str], &[&[&str]]); 6] = [
            (&["--depth", "1"], &[&["fetch", "-q", "--unshallow"]]),
            (
                &["--depth", "1", "--no-single-branch"],
                &[&["fetch", "-q", "--depth", "4"], &["fetch", "-q", "--depth", "2"]],
            ),
            (
                &["--depth", "3"],
                &[&["fetch", "-q", "--deepen", "2"], &["fetch", "-q", "--deepen", "20"]],
            ),
            (&["--depth", "100"], &[&["fetch", "-q"]]),
            (
                &[since],
                &[
                    &["fetch", "-q", "--depth", "2"],
                    &["gc", "-q", "--prune=now"],
                    &["fetch", "-q", "--unshallow"],
                ],
            ),
            (
                &[since, "--no-single-branch"],
                &[&["fetch", "-q", "--unshallow"], &["fetch", "-q", "--depth", "1"]],
            ),
        ];
        for (clone, then) in all {
            same_as_smart(&world, &repo, name, clone, then);
        }
    }
    // One branch, whole: tags of others come with the packs that it is in.
    let clone = world.clone("pack", "side", &["--single-branch", "-b", "side"]);
    let branches = world.run(&clone, &["for-each-ref", "--format=%(refname)", "refs/remotes"]);
    assert_eq!(branches, "refs/remotes/origin/side");
    fsck(&clone);
    // What is new is fetched into a shallow clone, and history stays cut off.
    let url = "mirror::s3://bucket/pack";
    world.run(world.folder.path(), &["clone", "-q", "--depth", "2", url, "shallow"]);
    let clone = world.path("shallow");
    repo.commit("refs/heads/main", &[("new", b"file\n")]);
    world.mirror(&repo, "pack", &["--layout", "pack"]);
    world.run(&clone, &["fetch", "-q"]);
    assert_eq!(world.run(&clone, &["rev-list", "--count", "origin/main"]), "3");
    fsck(&clone);
    let error = world.fails(&clone, &["fetch", "--shallow-since=2030-01-01", "origin"]);
    assert!(error.contains("no commits selected"), "{error}");
}

#[test]
fn partial_clones_fetch_what_is_missing_when_it_is_needed() {
    let (world, repo) = (World::new(), with_dates());
    world.mirror(&repo, "a", &["--layout", "pack"]);
    let missing = |clone: &Path| {
        let words = ["rev-list", "--objects", "--all", "--missing=print"];
        let mut command = world.git(clone, &words);
        let out = String::from_utf8(run(command.env("GIT_NO_LAZY_FETCH", "1"), b"")).unwrap();
        let mut missing: Vec<String> =
            out.lines().filter(|line| line.starts_with('?')).map(str::to_owned).collect();
        missing.sort();
        missing
    };
    let folder = repo.path().file_name().unwrap().to_str().unwrap();
    let smart = format!("{}/{folder}", world.source.url());
    repo.git(&["config", "uploadpack.allowFilter", "true"]);
    repo.git(&["config", "uploadpack.allowAnySHA1InWant", "true"]);
    let revisions = [repo.rev("main").unwrap(), repo.rev("main~5").unwrap()];
    for filter in [
        "blob:none",
        "blob:limit=1k",
        "tree:0",
        "tree:1",
        "object:type=commit",
        "combine:tree:3+blob:limit=1k",
    ] {
        let filter_word = format!("--filter={filter}");
        let name = filter.replace([':', '=', '+'], "-");
        let (ours, theirs) = (format!("ours-{name}"), format!("smart-{name}"));
        let clone = world.clone("a", &ours, &["--bare", &filter_word]);
        world.run(world.folder.path(), &["clone", "-q", "--bare", &filter_word, &smart, &theirs]);
        assert!(!missing(&clone).is_empty(), "{filter}");
        assert_eq!(missing(&clone), missing(&world.path(&theirs)), "{filter}");
        fsck(&clone);
        // A checkout fetches what it needs, an older one as well.
        for revision in &revisions {
            let tree = world.path(&format!("{name}-{revision}"));
            world.run(&clone, &["worktree", "add", "-q", tree.to_str().unwrap(), revision]);
            let top = format!("{revision}:folder/deep");
            let read = fs::read_to_string(tree.join("folder/deep")).unwrap();
            assert_eq!(read.trim_end(), repo.git(&["cat-file", "blob", &top]));
        }
        repo.commit("refs/heads/main", &[("new", name.as_bytes())]);
        world.mirror(&repo, "a", &["--layout", "pack"]);
        world.run(&clone, &["fetch", "-q", "origin", "main:new"]);
        assert_eq!(world.run(&clone, &["cat-file", "blob", "new:new"]), name);
        world.run(&clone, &["gc", "-q"]);
        fsck(&clone);
        assert_tidy(&clone);
    }
}

/// Bytes of packs in a repository.
fn pack_bytes(dir: &Path) -> u64 {
    let git_dir = Some(dir.join(".git")).filter(|inner| inner.exists());
    let git_dir = git_dir.unwrap_or_else(|| dir.to_owned());
    let packs = fs::read_dir(git_dir.join("objects/pack")).unwrap().map(Result::unwrap);
    let packs = packs.filter(|entry| entry.path().extension().is_some_and(|e| e == "pack"));
    packs.map(|pack| pack.metadata().unwrap().len()).sum()
}

/// Five days of a file of 40 kB of noise that changes a little each day.
fn with_noise() -> Repo {
    let repo = Repo::new();
    let noise: Vec<u8> = (0..5000).flat_map(|at| hashed(at).to_le_bytes()).collect();
    for day in 0..5 {
        let file = [format!("day {day}\n").as_bytes(), &noise].concat();
        let blob = repo.blob(&file);
        let tree =
            repo.git_with_input(&["mktree"], format!("100644 blob {blob}\tnoise\n").as_bytes());
        let parent = repo.rev("refs/heads/main");
        let mut words = vec!["commit-tree".to_owned(), tree, "-m".into(), format!("day {day}")];
        words.extend(parent.into_iter().flat_map(|parent| ["-p".into(), parent]));
        let date = format!("{} +0000", 1_700_000_000 + 86_400 * day);
        let mut command = git(repo.path());
        command.args(&words).env("GIT_COMMITTER_DATE", &date).env("GIT_AUTHOR_DATE", &date);
        let oid = String::from_utf8(run(&mut command, b"")).unwrap();
        repo.git(&["update-ref", "refs/heads/main", oid.trim()]);
    }
    repo.git(&["repack", "-q", "-a", "-d", "-f"]);
    repo
}

#[test]
fn parts_of_history_keep_the_deltas_of_the_mirror() {
    let (world, repo) = (World::new(), with_noise());
    world.mirror(&repo, "a", &["--layout", "pack"]);
    for words in [&["--depth", "4"][..], &["--filter=blob:limit=1m"]] {
        let clone = world.clone("a", words[0].trim_start_matches("--"), words);
        let bytes = pack_bytes(&clone);
        assert!(bytes < 60_000, "{words:?}: {bytes} bytes where the file has 40,000");
        fsck(&clone);
    }
}

/// A commit with files of noise of which each differs in a line from the others.
fn with_many_files(files: u64) -> Repo {
    let repo = Repo::new();
    let noise: Vec<u8> = (0..100).flat_map(|at| hashed(at).to_le_bytes()).collect();
    let mut stream =
        b"commit refs/heads/main\ncommitter A <a@a.a> 1700000000 +0000\ndata 0\n".to_vec();
    for file in 0..files {
        let content = [format!("{file}\n").as_bytes(), &noise].concat();
        let words = format!("M 644 inline {}/{file}\ndata {}\n", file % 99, content.len());
        stream.extend([words.as_bytes(), &content, b"\n"].concat());
    }
    run(git(repo.path()).args(["fast-import", "--quiet"]), &stream);
    repo.git(&["repack", "-q", "-a", "-d", "-f"]);
    repo
}

#[test]
fn many_files_of_one_commit_keep_their_deltas() {
    let (world, repo) = (World::new(), with_many_files(20_000));
    world.mirror(&repo, "a", &["--layout", "pack"]);
    let clone = world.clone("a", "c", &["--depth", "1"]);
    fsck(&clone);
    let (bytes, most) = (pack_bytes(&clone), pack_bytes(repo.path()));
    assert!(bytes < most + most / 4, "{bytes} bytes, {most} in the source");
}

#[test]
fn filter_that_is_not_known_brings_everything_as_it_is_stored_and_a_word() {
    let (world, repo) = (World::new(), with_noise());
    world.mirror(&repo, "a", &["--layout", "pack"]);
    let url = "mirror::s3://bucket/a";
    let mut clone =
        world.git(world.folder.path(), &["clone", "--filter=sparse:oid=main", url, "c"]);
    let out = clone.output().unwrap();
    let words = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{words}");
    assert!(words.contains("\"sparse:oid=main\" is not known here: everything"), "{words}");
    assert!(pack_bytes(&world.path("c")) < 60_000);
    fsck(&world.path("c"));
    let words = world.fails(world.folder.path(), &["clone", "--shallow-exclude=v1", url, "d"]);
    assert!(words.contains("use --shallow-since or --depth"), "{words}");
}

local_git::also_with_sha256! {
    parts_of_history_keep_the_deltas_of_the_mirror,
    each_kind_of_change_is_fetched,
    clone_of_many_packs_is_one_pack_and_the_stored_index_is_taken_if_it_is_trusted,
    history_is_cut_off_and_deepened_as_over_smart_http,
    partial_clones_fetch_what_is_missing_when_it_is_needed,
}
