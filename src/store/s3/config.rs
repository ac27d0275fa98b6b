//! How a bucket is reached.

/// How the bucket goes into the URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addressing {
    /// Path with a custom endpoint, virtual on AWS unless the bucket's name is no host name.
    #[default]
    Auto,
    /// `https://host/bucket/key`.
    Path,
    /// `https://bucket.host/key`.
    Virtual,
}

/// Where the bucket is and how objects are written.
#[derive(Clone, Debug, Default)]
pub struct S3Config {
    /// The bucket's name.
    pub bucket: String,
    /// What every key begins with, without the last slash; empty: the bucket itself.
    pub prefix: String,
    /// The region that requests are signed for.
    pub region: String,
    /// `https://host[:port][/path]`; `None`: AWS in `region`.
    pub endpoint: Option<String>,
    /// How the bucket goes into the URL.
    pub addressing: Addressing,
    /// `x-amz-storage-class` of every object written.
    pub storage_class: Option<String>,
    /// `x-amz-server-side-encryption` of every object written: `AES256`, `aws:kms`.
    pub sse: Option<String>,
    /// The KMS key for it.
    pub sse_kms_key_id: Option<String>,
    /// `x-amz-acl` of every object written.
    pub acl: Option<String>,
}
