// s3rver removes a folder with the last object in it and dies of another request's write into it at that moment.
// It is loaded before s3rver, which then keeps empty folders; no listing shows them.
require("fs").rmdir = (path, done) => done(null);
