// Package archive is the tar profile: it packs a directory into a tarball, and unpacks
// exactly such tarballs.
//
// # Parties
//
// The builder packs a staged directory and signs, in the manifest, what Pack returns:
// size and SHA-256 of the tarball, how many entries and bytes it unpacks to, and the
// tree hash. The puller compares size and SHA-256 first, then unpacks from the same
// descriptor into an empty directory. A tarball whose signature is right may still be
// malicious or careless; everything below is refused because of a rule, before
// anything is written for the entry that breaks it.
//
// # Tar
//
// A tarball is a POSIX tar archive in one zstd frame; "tar --zstd -tvf" lists it. The
// same directory, time and version of this package give the same bytes, on any
// machine, whatever the number of its cores, owners, umask, or the order in which its
// filesystem lists names.
//
// Entries come sorted by path, bytewise, each once, and below a directory that came
// before; the root has none. Each is a USTAR header, and a regular file's bytes,
// filled with zeros up to a multiple of 512. In the header
//
//	name, prefix  the path; a directory's has a slash at its end
//	mode          0000644, or 0000755: an executable file, any directory, any link
//	size          of a regular file, else 0
//	mtime         of the source, the same for all entries
//	typeflag      0 regular file, 2 symlink, 5 directory
//	linkname      the target of a symlink
//
// vary, and all else is fixed: uid, gid, devmajor, devminor are 0, uname and gname
// empty, magic and version "ustar\0" "00". Numbers are octal digits that fill their
// field, with one NUL behind them; the checksum has six digits, a NUL and a space.
//
// A path longer than 100 bytes is divided at the last slash that leaves prefix at most
// 155 bytes. A path that USTAR cannot hold, because there is no such slash or because
// not all of it is ASCII, and likewise a link target of more than 100 bytes or not in
// ASCII, has a PAX header before its USTAR header: type x, named "././@PaxHeader",
// with the records "path", then "linkpath", as far as needed, and no others. The USTAR
// header has the first 100 bytes of it then.
//
// The archive ends with two zero blocks (1024 bytes), and nothing follows.
//
// A header of a small file, without the zeros:
//
//	bin/server  0000755  0000000  0000000  00000000014  15207642120  011242  0  ustar 00  0000000  0000000
//
// Unpack is strict by one rule: it reads the fields that vary, encodes them anew, and
// refuses header blocks that are not these bytes. So there are no hard links, devices,
// sparse files, GNU or global headers, extended attributes, other modes or owners.
// Paths follow layout.CheckPath, link targets layout.CheckLink: relative, and never
// out of the bundle.
//
// # Zstd
//
// Exactly one frame, which names no dictionary and has a checksum; no skippable frame,
// and no byte after it. Its window is at most 64 MiB; the ones written here have 8 MiB.
//
// # What an unpacker spends
//
// Entries and bytes are counted while they are read and never exceed what the manifest
// says; the list of entries never exceeds tree.MaxListing. Memory is the window and
// about 4 MiB, beside the list.
//
// # What this does not protect from
//
// Unpack reads bytes that were hashed before, and a directory that only it writes to;
// another process that changes either is not looked for. Nothing is durable when it
// returns. Hard links, extended attributes, ACLs and holes of what is packed are lost,
// by intention. A newer version of this package, or of its zstd library, may pack the
// same directory to other bytes; the tree hash stays the same.
package archive
