package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Paths of the data keys, relative to the broker's url.
const (
	PathUnwrap = "/v1/datakeys/unwrap"
	PathRewrap = "/v1/datakeys/rewrap"
	PathTrust  = "/v1/trust"
)

// Names of the values of a lease of kind data-key.
const (
	ValuePlaintext = "plaintext" // the key: DataKeySize bytes in standard base64
	ValueWrapped   = "wrapped"   // the key encrypted under the broker's KEK: keep it beside what the key encrypts
	ValueKeyID     = "key_id"    // names the key; the same after it was rewrapped
	ValueStatement = "statement" // a JWT that says which lease, policy, workload and context the key belongs to
)

// KindDataKey is the kind of credential that is a data key.
const KindDataKey = "data-key"

// DataKeySize is the size of a data key in bytes: AES-256, ChaCha20.
const DataKeySize = 32

// MaxWrapped bounds a wrapped data key. One takes about 600 bytes.
const MaxWrapped = 4 << 10

// A DataKey is the answer to unwrapping or rewrapping one.
type DataKey struct {
	KeyID      string
	Credential string
	Plaintext  Secret    // DataKeySize bytes in standard base64; empty in the answer to a rewrapping
	Wrapped    string    // under the newest KEK; empty in the answer to an unwrapping
	ExpiresAt  time.Time // it cannot be unwrapped after that, to the second
}

type dataKeyJSON struct {
	KeyID      string    `json:"key_id"`
	Credential string    `json:"credential"`
	Plaintext  string    `json:"plaintext,omitempty"`
	Wrapped    string    `json:"wrapped,omitempty"`
	ExpiresAt  time.Time `json:"expires_at"`
	Sealed     string    `json:"sealed_plaintext,omitempty"` // instead of plaintext: see SealKey
}

func (k *DataKey) clear() dataKeyJSON {
	return dataKeyJSON{KeyID: k.KeyID, Credential: k.Credential, Plaintext: k.Plaintext.Reveal(), Wrapped: k.Wrapped, ExpiresAt: k.ExpiresAt}
}

// Encode returns k as JSON with its plaintext in clear.
func (k *DataKey) Encode() ([]byte, error) { return json.Marshal(k.clear()) }

// EncodeSealed is like Encode, with the plaintext sealed to r for the request
// that c describes.
func (k *DataKey) EncodeSealed(r *SealRecipient, c SealContext) ([]byte, error) {
	out := k.clear()
	var err error
	if out.Sealed, err = r.seal(c, sealedDataKey, []byte(out.Plaintext)); err != nil {
		return nil, fmt.Errorf("sealing a data key: %w", err)
	}
	out.Plaintext = ""
	return json.Marshal(out)
}

// DecodeDataKey reads what [DataKey.Encode] wrote: the answer to a rewrapping,
// or to an unwrapping without a seal_key. It has the one or the other form of
// the key. Its errors never quote the input.
func DecodeDataKey(data []byte) (*DataKey, error) {
	in, err := decodeDataKey(data)
	if err != nil {
		return nil, err
	}
	if in.Sealed != "" || (in.Plaintext == "") == (in.Wrapped == "") {
		return nil, errors.New("the broker's answer has not one data key, in clear or wrapped")
	}
	return in.dataKey(), nil
}

// DecodeSealedDataKey reads what [DataKey.EncodeSealed] wrote for k. One in
// clear is refused: it is not what was asked for.
func DecodeSealedDataKey(data []byte, k *SealKey, c SealContext) (*DataKey, error) {
	in, err := decodeDataKey(data)
	if err != nil {
		return nil, err
	}
	if in.Sealed == "" || in.Plaintext != "" || in.Wrapped != "" {
		return nil, errors.New("the broker's answer has a data key that is not sealed")
	}
	plaintext, err := k.open(c, sealedDataKey, in.Sealed)
	if err != nil {
		return nil, fmt.Errorf("the broker's answer has a data key that is %w", err)
	}
	out := in.dataKey()
	out.Plaintext = NewSecret(string(plaintext))
	return out, nil
}

func decodeDataKey(data []byte) (*dataKeyJSON, error) {
	var in dataKeyJSON
	if err := json.Unmarshal(data, &in); err != nil || in.KeyID == "" {
		return nil, errors.New("the broker's answer is not a data key in JSON")
	}
	return &in, nil
}

func (in *dataKeyJSON) dataKey() *DataKey {
	return &DataKey{KeyID: in.KeyID, Credential: in.Credential, Plaintext: NewSecret(in.Plaintext), Wrapped: in.Wrapped, ExpiresAt: in.ExpiresAt}
}
