package s3

import (
	"crypto/tls"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"makenot.work/sando/internal/later"
	"makenot.work/sando/layout"
)

// Error is an answer that is not a success.
type Error struct {
	Status int
	Code   string // S3's word for it; empty when the answer has none
	Region string // where the bucket is, when the answer says so

	retryAfter time.Duration
}

func (e *Error) Error() string {
	s := fmt.Sprintf("the server answers %d", e.Status)
	if e.Code != "" {
		s += " " + e.Code
	}
	switch {
	case e.Status == http.StatusNotModified:
		s += ": that nothing has changed, which nobody asked; is there a cache in front that mixes up its answers?"
	case e.Status/100 == 3 && e.Region != "":
		s += fmt.Sprintf(", a redirect, which is not followed: the bucket is in region %s; set storage.region and storage.endpoint", e.Region)
	case e.Status/100 == 3:
		s += ", a redirect, which is not followed: correct storage.endpoint or storage.region"
	case e.Region != "" && (e.Code == "AuthorizationHeaderMalformed" || e.Code == "InvalidRegion"):
		s += fmt.Sprintf(": the bucket is in region %s; set storage.region", e.Region)
	case e.refusesKeys():
		s += ": the server does not accept these credentials, or not any more"
	}
	return s
}

// RetryAfter returns for how long the server wants to be left alone; 0 when it does not say.
func (e *Error) RetryAfter() time.Duration { return e.retryAfter }

// refusesKeys reports whether the answer is about the keys of the request, rather than
// about what their owner may do.
func (e *Error) refusesKeys() bool {
	switch e.Code {
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired":
		return true
	}
	return false
}

// Forbidden reports whether the server refused to serve the key to this owner of good
// credentials. It says so of a missing object, too, when they may not list the bucket.
func (e *Error) Forbidden() bool {
	return e.Status == http.StatusForbidden && !e.refusesKeys() && e.Code != "RequestTimeTooSkewed"
}

// Unsupported reports whether the server says that it does not know a header of the
// request, such as a condition on a PUT.
func (e *Error) Unsupported() bool {
	if e.Status == http.StatusNotImplemented || e.Code == "NotImplemented" {
		return true
	}
	return e.Status == http.StatusBadRequest && (e.Code == "" || e.Code == "InvalidRequest" || e.Code == "InvalidArgument")
}

func (e *Error) temporary() bool {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	switch e.Code { // whatever the status
	case "SlowDown", "InternalError", "RequestTimeout", "ServiceUnavailable":
		return true
	}
	return false
}

// broken is a request, or an answer, that did not come through.
type broken struct{ err error }

func (b *broken) Error() string { return layout.Brief(b.err.Error()) }
func (b *broken) Unwrap() error { return b.err }

func refusesKeys(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.refusesKeys()
}

// unreached is the outcome of a request without an answer.
func unreached(err error) error {
	var verify *tls.CertificateVerificationError
	switch {
	case errors.As(err, &verify):
		// The names in its certificate are part of it, as many as it likes.
		return fmt.Errorf("%s: if the server's certificate is of your own authority, name that in storage.ca_file", layout.Brief(err.Error()))
	case errors.Is(err, http.ErrSchemeMismatch):
		return fmt.Errorf("%w: is storage.endpoint right?", err)
	}
	return &broken{err}
}

// temporary reports whether another attempt may help against err.
func temporary(err error) bool {
	var e *Error
	if errors.As(err, &e) {
		return e.temporary()
	}
	var b *broken
	return errors.As(err, &b)
}

// judge returns an answer to req that is a success, and says what is wrong with any other.
func judge(req *http.Request, resp *http.Response) error {
	want := http.StatusOK
	if req.Header.Get("Range") != "" {
		want = http.StatusPartialContent
	}
	switch {
	case resp.StatusCode/100 != 2:
		return refusal(resp)
	case req.Method == http.MethodPut:
		// The body of a success is empty. An error may be sent after a success was begun.
		if e := refusal(resp); e.Code != "" || e.Status != want {
			return e
		}
	case req.Method == http.MethodGet && isXML(resp.Header):
		// No object has this type here, and there are servers that send errors like this.
		return refusal(resp)
	case resp.StatusCode != want:
		return fmt.Errorf("the server answers %d, want %d", resp.StatusCode, want)
	case encoded(resp.Header):
		return fmt.Errorf("the answer has the content encoding %q, want the bytes as they are stored", resp.Header.Get("Content-Encoding"))
	case resp.ContentLength < 0:
		return errors.New("the answer does not say how long it is")
	}
	return nil
}

func encoded(h http.Header) bool {
	e := h.Get("Content-Encoding")
	return e != "" && !strings.EqualFold(e, "identity")
}

func isXML(h http.Header) bool {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && (t == "application/xml" || t == "text/xml")
}

// maxRefusal is how much of an answer's body is looked at for what it says.
const maxRefusal = 64 << 10

// refusal reads what an answer says of itself. Its words are shown, its prose is not:
// it may repeat parts of the request. Nor is the number of the request: with it, what goes
// wrong in the same way at each poll would be news at each poll.
func refusal(resp *http.Response) *Error {
	var body minio.ErrorResponse
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	if err != nil || xml.Unmarshal(data, &body) != nil {
		body = minio.ErrorResponse{}
	}
	pick := func(values ...string) string {
		for _, v := range values {
			if word(v) {
				return v
			}
		}
		return ""
	}
	return &Error{
		Status:     resp.StatusCode,
		Code:       pick(body.Code, resp.Header.Get("X-Minio-Error-Code")),
		Region:     pick(body.Region, resp.Header.Get("X-Amz-Bucket-Region")),
		retryAfter: later.Parse(resp.Header.Get("Retry-After"), time.Now()),
	}
}
