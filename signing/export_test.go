package signing

// ParseBundle shows the tests what was read.
func ParseBundle(data []byte) (digest, signature []byte, err error) {
	m, err := parseBundle(data)
	return m.digest, m.signature, err
}
