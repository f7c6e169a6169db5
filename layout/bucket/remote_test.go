package bucket_test

import (
	"strings"
	"testing"

	"makenot.work/sando/internal/testenv/minio"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/layout/bucket/buckettest"
)

func openS3(t *testing.T, c bucket.Config) bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestS3Conformance(t *testing.T) {
	s := minio.Start(t, minio.Options{})
	buckettest.Run(t, func(t *testing.T) bucket.Bucket {
		return openS3(t, bucket.Config{
			URL: "s3://" + s.Bucket(t, minio.Private) + "/" + strings.Repeat("p/", 62) + "pre", Endpoint: s.Endpoint,
			AccessKeyFile: s.Root.AccessKeyFile, SecretKeyFile: s.Root.SecretKeyFile,
		})
	})
}
