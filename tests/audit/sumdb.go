// Judges cases with golang.org/x/mod/sumdb, the tree and the notes of Go's checksum database.
//
// generate_vectors.py feeds it and keeps its answers in data/sumdb.json, so that the tests need no
// Go. With Debian's golang-go and golang-golang-x-mod-dev:
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go run tests/audit/sumdb.go < cases.json
package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type inclusion struct {
	Index, Size int64
	Leaf, Root  tlog.Hash
	Path        []tlog.Hash
}

type consistency struct {
	First, Second         int64
	FirstRoot, SecondRoot tlog.Hash
	Path                  []tlog.Hash
}

type signing struct {
	Text  string
	Names []string
	Seeds []string
}

type input struct {
	Leaves      int64
	Inclusion   []inclusion
	Consistency []consistency
	Notes       []string
	Known       []string
	Keys        []string
	Sign        []signing
}

type tree struct {
	Size        int64  `json:"size"`
	Root        string `json:"root"`
	Text        string `json:"text"`
	Inclusion   string `json:"inclusion"`
	Consistency string `json:"consistency"`
}

type output struct {
	Trees       []tree   `json:"trees"`
	Inclusion   string   `json:"inclusion"`
	Consistency string   `json:"consistency"`
	Notes       string   `json:"notes"`
	Keys        string   `json:"keys"`
	Signed      []string `json:"signed"`
}

type stored []tlog.Hash

func (s stored) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		hashes[i] = s[index]
	}
	return hashes, nil
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// trees builds a log of the entries "entry 0", "entry 1", ... and, at every size, proves every entry
// and every earlier size. The proofs are checked, and given as one digest for each size.
func trees(leaves int64) []tree {
	var hashes stored
	var roots []tlog.Hash
	var all []tree
	for size := int64(1); size <= leaves; size++ {
		more, err := tlog.StoredHashes(size-1, []byte(fmt.Sprintf("entry %d", size-1)), hashes)
		must(err)
		hashes = append(hashes, more...)
		root, err := tlog.TreeHash(size, hashes)
		must(err)
		roots = append(roots, root)
		included, consistent := sha256.New(), sha256.New()
		for n := int64(0); n < size; n++ {
			proof, err := tlog.ProveRecord(size, n, hashes)
			must(err)
			must(tlog.CheckRecord(proof, size, root, n, hashes[tlog.StoredHashIndex(0, n)]))
			for _, hash := range proof {
				included.Write(hash[:])
			}
		}
		for n := int64(1); n <= size; n++ {
			proof, err := tlog.ProveTree(size, n, hashes)
			must(err)
			must(tlog.CheckTree(proof, size, root, n, roots[n-1]))
			for _, hash := range proof {
				consistent.Write(hash[:])
			}
		}
		all = append(all, tree{
			Size:        size,
			Root:        hex.EncodeToString(root[:]),
			Text:        string(tlog.FormatTree(tlog.Tree{N: size, Hash: root})),
			Inclusion:   hex.EncodeToString(included.Sum(nil)),
			Consistency: hex.EncodeToString(consistent.Sum(nil)),
		})
	}
	return all
}

// judge is "+" for what is accepted and "-" for what is refused.
func judge(err error) string {
	if err == nil {
		return "+"
	}
	return "-"
}

// open says what becomes of a note: "+" accepted, "U" no signature by a known key, "I" a wrong
// signature by a known key, "M" malformed.
func open(text string, known note.Verifiers) string {
	_, err := note.Open([]byte(text), known)
	var unverified *note.UnverifiedNoteError
	var invalid *note.InvalidSignatureError
	switch {
	case err == nil:
		return "+"
	case errors.As(err, &unverified):
		return "U"
	case errors.As(err, &invalid):
		return "I"
	}
	return "M"
}

func signer(name, seedText string) note.Signer {
	seed, err := hex.DecodeString(seedText)
	must(err)
	public := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	id := sha256.Sum256([]byte(name + "\n\x01" + string(public)))
	private := base64.StdEncoding.EncodeToString(append([]byte{1}, seed...))
	made, err := note.NewSigner(fmt.Sprintf("PRIVATE+KEY+%s+%x+%s", name, id[:4], private))
	must(err)
	return made
}

func main() {
	var in input
	must(json.NewDecoder(os.Stdin).Decode(&in))
	out := output{Trees: trees(in.Leaves)}
	for _, c := range in.Inclusion {
		out.Inclusion += judge(tlog.CheckRecord(c.Path, c.Size, c.Root, c.Index, c.Leaf))
	}
	for _, c := range in.Consistency {
		out.Consistency += judge(
			tlog.CheckTree(c.Path, c.Second, c.SecondRoot, c.First, c.FirstRoot))
	}
	var verifiers []note.Verifier
	for _, text := range in.Known {
		verifier, err := note.NewVerifier(text)
		must(err)
		verifiers = append(verifiers, verifier)
	}
	for _, text := range in.Notes {
		out.Notes += open(text, note.VerifierList(verifiers...))
	}
	for _, text := range in.Keys {
		_, err := note.NewVerifier(text)
		out.Keys += judge(err)
	}
	for _, c := range in.Sign {
		var signers []note.Signer
		for i, name := range c.Names {
			signers = append(signers, signer(name, c.Seeds[i]))
		}
		signed, err := note.Sign(&note.Note{Text: c.Text}, signers...)
		must(err)
		out.Signed = append(out.Signed, string(signed))
	}
	must(json.NewEncoder(os.Stdout).Encode(out))
}
