package pkcs11

import "time"

// Answering returns c with another time that a request may take.
func (c Config) Answering(within time.Duration) Config {
	c.answer = within
	return c
}
