package signing_test

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"makenot.work/sando/signing"
)

// BenchmarkVerify shows the time to check one channel or manifest with threshold 1, and
// how much of it is more than the bare mathematics.
func BenchmarkVerify(b *testing.B) {
	tr := goldenTrust(b)
	doc := file(b, "hello.txt")
	s := signing.Signed{Doc: doc, Sigs: signing.Signatures{cosignKid: file(b, "bundle.json")}}
	block, _ := pem.Decode(file(b, "cosign.pub"))
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		b.Fatal(err)
	}
	_, sig, err := signing.ParseBundle(s.Sigs[cosignKid])
	if err != nil {
		b.Fatal(err)
	}
	sum := sha256.Sum256(doc)
	var bare time.Duration
	for b.Loop() {
		if err := tr.Verify("channel", s); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		start := time.Now()
		if !ecdsa.VerifyASN1(parsed.(*ecdsa.PublicKey), sum[:], sig) {
			b.Fatal("bare signature does not verify")
		}
		bare += time.Since(start)
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed())/float64(bare), "x-bare")
}
