//! The promise, through the binary: what git's own HTTP server has, stock git clones from the
//! bucket. Source: the real `git http-backend`. Store: a real S3 server in this process, which
//! verifies signatures. Reader: the `git` of this machine, over plain HTTP.

use crate::support::{git_http, local_git, s3_server};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use git_http::{Canned, GitHttp, StaticHttp};
use local_git::{Repo, all_objects, all_refs, assert_same_repository, git, run};
use s3_server::S3Server;

/// A store with the bucket `bucket`, a folder for everything else.
struct World {
    folder: tempfile::TempDir,
    s3: S3Server,
}

/// How a run of the binary ended.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    fn assert_code(&self, code: i32) {
        assert_eq!(self.code, Some(code), "out: {}\nerr: {}", self.out, self.err);
    }
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let buckets = folder.path().join("buckets");
        fs::create_dir_all(buckets.join("bucket")).unwrap();
        let options = s3_server::Options { public_reads: true, ..Default::default() };
        let s3 = S3Server::start_with(&buckets, options);
        World { folder, s3 }
    }

    /// The binary with the keys of this store and nothing else of the environment.
    fn program(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mirror-git-to-s3"));
        command
            .args(words)
            .env_clear()
            .env("AWS_ACCESS_KEY_ID", &self.s3.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &self.s3.secret_key)
            .env("AWS_ENDPOINT_URL_S3", self.s3.endpoint())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Ran {
        ran(&mut self.program(words))
    }

    /// Mirrors to `s3://bucket/NAME` and expects it to succeed.
    fn mirror(&self, source: &str, name: &str, more: &[&str]) -> Ran {
        let target = format!("s3://bucket/{name}");
        let words = [&["--source", source, "--target", &target], more].concat();
        let ran = self.run(&words);
        ran.assert_code(0);
        ran
    }

    /// Where readers find `s3://bucket/NAME`.
    fn public_url(&self, name: &str) -> String {
        format!("{}/bucket/{name}", self.s3.endpoint())
    }

    /// A bare clone of everything that `url` has.
    fn clone(&self, url: &str) -> PathBuf {
        let dir = tempfile::tempdir_in(self.folder.path()).unwrap().keep();
        let words = ["clone", "-q", "--mirror", url, "clone"];
        run(git(&dir).args(words).env("no_proxy", "*"), b"");
        dir.join("clone")
    }

    /// Is what `url` has the same as `repo`, by git's own judgement?
    fn assert_clone_is(&self, url: &str, repo: &Repo) {
        assert_same_repository(repo.path(), &self.clone(url));
    }
}

fn ran(command: &mut Command) -> Ran {
    let output = command.output().expect("the binary runs");
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("output is UTF-8"),
        err: String::from_utf8(output.stderr).expect("errors are UTF-8"),
    }
}

/// `git http-backend` over one repository, and the repository's URL.
fn serve(repo: &Repo, options: git_http::Options) -> (GitHttp, String) {
    let server = GitHttp::start(repo.path().parent().unwrap(), options);
    let name = repo.path().file_name().unwrap().to_str().unwrap();
    let url = format!("{}/{name}", server.url());
    (server, url)
}

fn only_v0() -> git_http::Options {
    git_http::Options { only_v0: true, ..Default::default() }
}

/// Every sort of ref: branches, light, annotated and nested tags, a tag of a blob, notes, a pull
/// request, a name that is not ASCII; files that grow, so that there are deltas.
fn all_sorts() -> Repo {
    let repo = Repo::new();
    let mut text = String::new();
    for round in 0..30 {
        text += &format!("line {round} of a file that grows, so that deltas are worth it\n");
        repo.commit("refs/heads/main", &[("grows", text.as_bytes()), ("same", b"same\n")]);
    }
    repo.commit("refs/heads/side/branch", &[("alone", b"")]);
    repo.git(&["branch", "größe/日本語", "main~4"]);
    repo.git(&["tag", "light", "main~3"]);
    repo.git(&["tag", "-a", "-m", "annotated", "v1", "main~2"]);
    repo.git(&["tag", "-a", "-m", "a tag of a tag", "v1-again", "v1"]);
    let blob = repo.blob(b"a blob that only a tag reaches\n");
    repo.git(&["tag", "-a", "-m", "of a blob", "blob", &blob]);
    repo.git(&["notes", "add", "-m", "a note", "main"]);
    repo.git(&["update-ref", "refs/pull/1/head", "main~1"]);
    repo
}

#[test]
fn all_sorts_of_refs_are_cloned_from_the_bucket_as_they_are() {
    let repo = all_sorts();
    for (name, options) in [("v2.git", git_http::Options::default()), ("v0.git", only_v0())] {
        let world = World::new();
        let (_server, url) = serve(&repo, options);
        let ran = world.mirror(&url, name, &["--concurrency", "4"]);
        assert!(world.s3.connections() <= 4, "{name}: {} connections", world.s3.connections());
        assert!(ran.err.is_empty(), "{}", ran.err);
        world.assert_clone_is(&world.public_url(name), &repo);
        // Nothing is written, and little asked, when nothing is new.
        let before = world.s3.requests();
        let ran = world.mirror(&url, name, &["--json"]);
        assert!(ran.out.contains(r#""status":"unchanged""#), "{}", ran.out);
        let seen = world.s3.seen().split_off(before as usize);
        assert!(seen.len() <= 6 && seen.iter().all(|line| line.starts_with("GET ")), "{seen:?}");
    }
}

#[test]
fn a_clone_of_the_bucket_is_worked_with_and_fetches_what_is_new() {
    let (world, repo) = (World::new(), all_sorts());
    let (_server, url) = serve(&repo, Default::default());
    world.mirror(&url, "a/deep/prefix/x.git", &[]);
    let public = world.public_url("a/deep/prefix/x.git");
    let words = ["clone", "-q", &public, "work"];
    run(git(world.folder.path()).args(words).env("no_proxy", "*"), b"");
    let work = world.folder.path().join("work");
    assert_eq!(fs::read_to_string(work.join("same")).unwrap(), "same\n");
    repo.commit("refs/heads/main", &[("same", b"new\n")]);
    repo.git(&["tag", "-a", "-m", "later", "v2", "main"]);
    repo.git(&["branch", "-D", "side/branch"]);
    world.mirror(&url, "a/deep/prefix/x.git", &[]);
    run(git(&work).args(["pull", "-q", "--prune"]).env("no_proxy", "*"), b"");
    assert_eq!(fs::read_to_string(work.join("same")).unwrap(), "new\n");
    let tag = run(git(&work).args(["rev-parse", "v2^{commit}"]), b"");
    assert_eq!(String::from_utf8(tag).unwrap().trim(), repo.rev("main").unwrap());
    world.assert_clone_is(&public, &repo);
}

#[test]
fn a_directory_is_cloned_by_path_and_over_http() {
    let (world, repo) = (World::new(), all_sorts());
    let (_server, url) = serve(&repo, only_v0());
    let dir = world.folder.path().join("served/x.git");
    let target = format!("file://{}", dir.display());
    world.run(&["--source", &url, "--target", &target]).assert_code(0);
    assert_same_repository(repo.path(), &dir);
    world.assert_clone_is(dir.to_str().unwrap(), &repo);
    let files = StaticHttp::start(&world.folder.path().join("served"));
    world.assert_clone_is(&format!("{}/x.git", files.url()), &repo);
}

#[test]
fn an_empty_repository_is_an_empty_mirror_with_its_unborn_branch() {
    for options in [git_http::Options::default(), only_v0()] {
        let v0 = options.only_v0;
        let (world, repo) = (World::new(), Repo::new());
        repo.git(&["symbolic-ref", "HEAD", "refs/heads/main"]);
        let (_server, url) = serve(&repo, options);
        world.mirror(&url, "empty.git", &[]);
        let clone = world.clone(&world.public_url("empty.git"));
        assert_eq!((all_refs(&clone), all_objects(&clone).len()), (String::new(), 0), "v0: {v0}");
        let folder = world.folder.path().join("buckets/bucket/empty.git");
        assert_eq!(fs::read_to_string(folder.join("HEAD")).unwrap(), "ref: refs/heads/main\n");
        // Its first commits come as to any other mirror.
        repo.commit("refs/heads/main", &[("a", b"1")]);
        world.mirror(&url, "empty.git", &[]);
        world.assert_clone_is(&world.public_url("empty.git"), &repo);
    }
}

#[test]
fn head_is_mirrored_when_detached_and_when_its_branch_is_unborn() {
    let (world, repo) = (World::new(), all_sorts());
    let (_server, url) = serve(&repo, Default::default());
    let head = || {
        let file = world.folder.path().join("buckets/bucket/x.git/HEAD");
        fs::read_to_string(file).unwrap()
    };
    repo.git(&["symbolic-ref", "HEAD", "refs/heads/later"]);
    world.mirror(&url, "x.git", &[]);
    assert_eq!(head(), "ref: refs/heads/later\n");
    // A commit that no ref reaches: HEAD alone wants it.
    let tip = repo.rev("main").unwrap();
    let alone = repo.commit_with_parents(&[&tip], &[("only", b"HEAD has this")]);
    repo.git(&["update-ref", "--no-deref", "HEAD", &alone]);
    world.mirror(&url, "x.git", &[]);
    assert_eq!(head(), format!("{alone}\n"));
    let words = ["clone", "-q", &world.public_url("x.git"), "detached"];
    run(git(world.folder.path()).args(words).env("no_proxy", "*"), b"");
    let file = world.folder.path().join("detached/only");
    assert_eq!(fs::read_to_string(file).unwrap(), "HEAD has this");
}

#[test]
fn three_hundred_branches_are_all_there() {
    let (world, repo) = (World::new(), all_sorts());
    let tip = repo.rev("main").unwrap();
    let names: String = (0..300).map(|n| format!("create refs/heads/many/{n} {tip}\n")).collect();
    repo.git_with_input(&["update-ref", "--stdin"], names.as_bytes());
    for (name, options) in [("v2.git", git_http::Options::default()), ("v0.git", only_v0())] {
        let (_server, url) = serve(&repo, options);
        world.mirror(&url, name, &[]);
        world.assert_clone_is(&world.public_url(name), &repo);
    }
}

#[test]
fn only_the_refs_that_were_asked_for_are_published() {
    let (world, repo) = (World::new(), all_sorts());
    let (_server, url) = serve(&repo, Default::default());
    let chosen = ["--refs", "refs/heads/*", "--refs=refs/tags/*", "--exclude-refs", "*side*"];
    world.mirror(&url, "x.git", &chosen);
    let clone = world.clone(&world.public_url("x.git"));
    run(git(&clone).args(["fsck", "--full", "--strict"]), b"");
    let wanted: Vec<String> = repo
        .refs()
        .lines()
        .filter(|line| line.contains(" refs/heads/") || line.contains(" refs/tags/"))
        .filter(|line| !line.contains("side"))
        .map(Into::into)
        .collect();
    assert_eq!(all_refs(&clone).lines().collect::<Vec<_>>(), wanted);
    // What only the others reach is not stored either.
    let side = repo.rev("side/branch").unwrap();
    let (first, rest) = side.split_at(2);
    let object = format!("buckets/bucket/x.git/objects/{first}/{rest}");
    assert!(!world.folder.path().join(object).exists());
}

#[test]
fn the_storage_class_goes_with_every_object() {
    let (world, repo) = (World::new(), all_sorts());
    // More than a part, so that it is an upload.
    let mut noise = vec![0; 9 << 20];
    fastrand::Rng::with_seed(3).fill(&mut noise);
    repo.commit("refs/heads/main", &[("noise", &noise)]);
    let (_server, url) = serve(&repo, Default::default());
    for layout in ["loose", "pack"] {
        world.mirror(&url, layout, &["--storage-class", "STANDARD", "--layout", layout]);
    }
    let (mut puts, mut uploads) = (0, 0);
    for (line, headers) in world.s3.seen_with_headers() {
        // A part is of the class that its upload was begun with.
        let is_put = line.starts_with("PUT ") && !line.contains("partNumber=");
        let is_upload = line.starts_with("POST ") && line.contains("?uploads");
        if is_put || is_upload {
            let class = headers.get("x-amz-storage-class").map(|value| value.to_str().unwrap());
            assert_eq!(class, Some("STANDARD"), "{line}");
        }
        puts += usize::from(is_put);
        uploads += usize::from(is_upload);
    }
    assert!(puts > repo.objects().len() && uploads > 0, "{puts}, {uploads}");
}

#[test]
fn a_wrong_secret_is_denied_and_ends_with_12() {
    let (world, repo) = (World::new(), all_sorts());
    let (_server, url) = serve(&repo, Default::default());
    let mut command = world.program(&["--source", &url, "--target", "s3://bucket/x.git"]);
    let ran = ran(command.env("AWS_SECRET_ACCESS_KEY", "not/the+one"));
    ran.assert_code(12);
    assert!(ran.err.contains("SignatureDoesNotMatch"), "{}", ran.err);
    assert!(!ran.err.contains("not/the+one"), "{}", ran.err);
    assert!(!world.folder.path().join("buckets/bucket/x.git").exists());
}

#[test]
fn a_missing_bucket_ends_with_1_and_is_named() {
    let (world, repo) = (World::new(), all_sorts());
    let (_server, url) = serve(&repo, Default::default());
    let ran = world.run(&["--source", &url, "--target", "s3://nowhere/x.git"]);
    ran.assert_code(1);
    assert!(ran.err.contains("nowhere") && ran.err.contains("bucket"), "{}", ran.err);
}

#[test]
fn a_web_page_is_no_source_and_ends_with_1() {
    let (world, repo) = (World::new(), all_sorts());
    let page = Canned::new("info/refs", 200, "text/html", "<!doctype html><p>Sign in");
    let options = git_http::Options { canned: vec![page], ..Default::default() };
    let (_server, url) = serve(&repo, options);
    let ran = world.run(&["--source", &url, "--target", "s3://bucket/x.git"]);
    ran.assert_code(1);
    assert!(ran.err.contains("is a web page"), "{}", ran.err);
}

#[test]
fn one_failing_pair_of_several_ends_with_3_and_the_others_are_published() {
    let world = World::new();
    let (one, two) = (all_sorts(), Repo::new());
    two.commit("refs/heads/main", &[("two", b"2")]);
    let (_server, first) = serve(&one, Default::default());
    let (_other, second) = serve(&two, only_v0());
    let list = format!(
        "{first} s3://bucket/one.git\n{first}-missing s3://bucket/missing.git\n\
         {second} s3://bucket/two.git\n"
    );
    let manifest = world.folder.path().join("list");
    fs::write(&manifest, list).unwrap();
    for jobs in ["1", "3"] {
        let ran = world.run(&["--manifest", manifest.to_str().unwrap(), "--jobs", jobs]);
        ran.assert_code(3);
        assert!(ran.err.contains("missing.git"), "{}", ran.err);
        world.assert_clone_is(&world.public_url("one.git"), &one);
        world.assert_clone_is(&world.public_url("two.git"), &two);
        assert!(!world.folder.path().join("buckets/bucket/missing.git").exists());
    }
}

#[test]
fn bundles_are_mirrored_from_a_file_and_from_standard_input() {
    let (world, repo) = (World::new(), all_sorts());
    let file = world.folder.path().join("x.bundle");
    let words = ["bundle", "create", "-q", file.to_str().unwrap(), "HEAD", "--all"];
    repo.git(&words);
    world.mirror(&format!("bundle:{}", file.display()), "file.git", &[]);
    world.assert_clone_is(&world.public_url("file.git"), &repo);

    let mut bundle = git(repo.path());
    bundle.args(["bundle", "create", "-q", "-", "HEAD", "--all"]).stdout(Stdio::piped());
    let mut bundle = bundle.stderr(Stdio::null()).spawn().unwrap();
    let stdin = bundle.stdout.take().expect("piped");
    let mut command = world.program(&["--source", "-", "--target", "s3://bucket/stdin.git"]);
    let ran = ran(command.stdin(stdin));
    assert!(bundle.wait().unwrap().success());
    ran.assert_code(0);
    world.assert_clone_is(&world.public_url("stdin.git"), &repo);
}

/// Bundles of what was new since, into mirrors of both layouts: thin packs, whose deltas have bases in
/// the mirror alone.
#[test]
fn bundles_of_increments_bring_a_mirror_up_to_date_and_keep_its_other_refs() {
    for (layout, memory) in [("loose", "64"), ("pack", "64"), ("loose", "8"), ("pack", "8")] {
        let (world, repo) = (World::new(), all_sorts());
        let large = noise(2 << 20);
        let text = |edits: usize| -> Vec<u8> {
            let line = |n| format!("line {n} {}\n", if n < edits { "edited" } else { "" });
            (0..3000).map(line).collect::<String>().into_bytes()
        };
        repo.commit("refs/heads/main", &[("text", &text(0)), ("large", &large)]);
        repo.git(&["branch", "stays", "main~1"]);
        let name = format!("{layout}{memory}.git");
        let words = ["--layout", layout, "--memory", memory];
        let mirror = |since: &str, file: &str| {
            let path = world.folder.path().join(file);
            let path = path.to_str().expect("UTF-8");
            let not = ["--not", since];
            let not: &[&str] = if since.is_empty() { &[] } else { &not };
            repo.git(&[&["bundle", "create", "-q", path, "HEAD", "--all"], not].concat());
            let source = format!("bundle:{path}");
            let target = format!("s3://bucket/{name}");
            world.run(&[&["--source", &source, "--target", &target], &words[..]].concat())
        };
        let info_refs = || {
            fs::read(world.folder.path().join(format!("buckets/bucket/{name}/info/refs"))).unwrap()
        };
        mirror("", "whole.bundle").assert_code(0);

        // Deltas against a small and a large base; a new branch and an annotated tag.
        let changed = [&large[..1 << 20], b"changed", &large[1 << 20..]].concat();
        repo.commit("refs/heads/main", &[("text", &text(1)), ("large", &changed)]);
        repo.git(&["branch", "new", "main"]);
        repo.git(&["tag", "-a", "-m", "tag", "v9", "main"]);
        mirror("main~1", "second.bundle").assert_code(0);
        world.assert_clone_is(&world.public_url(&name), &repo);

        // Prerequisites that are no longer tips, and what the mirror has already once more.
        repo.commit("refs/heads/main", &[("text", &text(2)), ("large", &changed)]);
        mirror("main~2", "third.bundle").assert_code(0);
        world.assert_clone_is(&world.public_url(&name), &repo);
        let again = mirror("main~2", "third.bundle");
        again.assert_code(0);
        assert!(again.out.starts_with("unchanged "), "{}", again.out);

        // A reader's fetch follows tags by what they peel to.
        let peeled = |name: &str| {
            let commit = repo.rev(&format!("{name}^{{}}")).unwrap();
            format!("{commit}\trefs/tags/{name}^{{}}\n")
        };
        let published = String::from_utf8(info_refs()).unwrap();
        for name in ["v1", "v1-again", "v9", "blob"] {
            assert!(published.contains(&peeled(name)), "{name}:\n{published}");
        }

        // A bundle that is one too far.
        let before = info_refs();
        repo.commit("refs/heads/main", &[("text", &text(3)), ("large", &changed)]);
        repo.commit("refs/heads/main", &[("text", &text(4)), ("large", &changed)]);
        let far = mirror("main~1", "far.bundle");
        far.assert_code(1);
        let missing = repo.rev("main~1").unwrap();
        assert!(
            far.err.contains(&format!("are missing from the mirror: {missing};")),
            "{}",
            far.err
        );
        assert_eq!(before, info_refs());
    }
}

#[test]
fn a_bundle_of_an_increment_without_a_mirror_is_refused() {
    let (world, repo) = (World::new(), all_sorts());
    let file = world.folder.path().join("x.bundle");
    repo.git(&["bundle", "create", "-q", file.to_str().unwrap(), "main~1..main"]);
    let source = format!("bundle:{}", file.display());
    for word in ["-v", "--dry-run"] {
        let ran = world.run(&["--source", &source, "--target", "s3://bucket/x.git", word]);
        ran.assert_code(1);
        assert!(ran.err.contains(&repo.rev("main~1").unwrap()), "{}", ran.err);
        assert!(ran.err.contains("git bundle create FILE HEAD --all"), "{}", ran.err);
    }
    assert!(!world.folder.path().join("buckets/bucket/x.git/info/refs").exists());
}

/// Bytes that don't compress, the same each time.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[test]
fn nothing_of_a_run_is_left_under_its_temporary_prefix() {
    let (world, repo) = (World::new(), all_sorts());
    let (_server, url) = serve(&repo, Default::default());
    world.mirror(&url, "x.git", &["--memory", "8"]);
    let left = Path::join(world.folder.path(), "buckets/bucket/x.git/mirror_tmp");
    // s3s-fs leaves the folders of what is deleted.
    fn files(dir: &Path) -> usize {
        let entries = fs::read_dir(dir).map(|entries| entries.map(|e| e.unwrap().path()));
        entries.map_or(0, |paths| paths.map(|p| if p.is_dir() { files(&p) } else { 1 }).sum())
    }
    assert_eq!(files(&left), 0);
}

local_git::also_with_sha256! {
    all_sorts_of_refs_are_cloned_from_the_bucket_as_they_are,
    a_clone_of_the_bucket_is_worked_with_and_fetches_what_is_new,
    a_directory_is_cloned_by_path_and_over_http,
    an_empty_repository_is_an_empty_mirror_with_its_unborn_branch,
    head_is_mirrored_when_detached_and_when_its_branch_is_unborn,
    bundles_are_mirrored_from_a_file_and_from_standard_input,
    bundles_of_increments_bring_a_mirror_up_to_date_and_keep_its_other_refs,
}
