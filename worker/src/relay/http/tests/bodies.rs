use super::*;

/// How many bytes the body takes, and whether it is complete.
fn chunked(bytes: &[u8]) -> Result<(usize, bool), BadBody> {
    let mut reader = BodyReader::of_request(Body::Chunked);
    Ok((reader.advance(bytes)?, reader.is_done()))
}

#[test]
fn a_body_ends_where_its_length_says() {
    let mut reader = BodyReader::of_request(Body::Length(5));
    assert_eq!((reader.advance(b"abc"), reader.is_done()), (Ok(3), false));
    assert_eq!((reader.advance(b"defg"), reader.is_done()), (Ok(2), true));
    assert_eq!(reader.advance(b"g"), Ok(0));
    assert!(BodyReader::of_answer(Body::None).is_done());
    let mut reader = BodyReader::of_answer(Body::UntilClose);
    assert_eq!((reader.advance(b"abc"), reader.is_done()), (Ok(3), false));
}

#[test]
fn chunks_end_with_the_empty_one_and_its_trailers() {
    for whole in [
        "0\r\n\r\n",
        "000\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "1\r\na\r\nA\r\n0123456789\r\n00000\r\n\r\n",
        "3;a=b; c=\"d;e\"\r\n\r\n0\r\n0;x\r\n\r\n",
        "0\r\nX: y\r\nEmpty:\r\nLonger-Than-All-Of-These-Names: z\t\u{fc}\r\n\r\n",
    ] {
        assert_eq!(chunked(format!("{whole}GET /").as_bytes()), Ok((whole.len(), true)), "{whole:?}");
        for length in 0..whole.len() {
            assert_eq!(chunked(&whole.as_bytes()[..length]), Ok((length, false)), "{:?}", &whole[..length]);
        }
    }
}

#[test]
fn chunks_with_two_interpretations_are_bad() {
    for bad in [
        "\r\n",
        "x\r\n",
        "+5\r\nhello",
        "-5\r\n",
        "0x5\r\nhello",
        " 5\r\nhello",
        "5 \r\nhello",
        "5\t;a\r\nhello",
        "5,5\r\n",
        "5\nhello",
        "5\r5\r\n",
        "5;a\nhello",
        "5;a\rb\r\n",
        "5;\0\r\n",
        "5\r\nhello!\r\n",
        "5\r\nhello\n0",
        "5\r\nhello\r0",
        "8000000000000000\r\n",
        "ffffffffffffffff\r\n",
        "00000000000000005\r\n",
        "10000000000000000\r\n",
        ";a\r\n",
        "0\r\n X: folded\r\n",
        "0\r\nX : y\r\n",
        "0\r\nX\r\n",
        "0\r\n:y\r\n",
        "0\r\nX: y\n",
        "0\r\nX: y\rz",
        "0\r\nX: y\r\n\tz\r\n",
        "0\r\nX: \0\r\n",
        "0\r\n\n",
        "0\n",
        "0\r\n\rG",
        "0\r\nGET / HTTP/1.1\r\n",
    ] {
        assert_eq!(chunked(bad.as_bytes()), Err(BadBody), "{bad:?}");
    }
}

#[test]
fn a_request_has_no_trailer_that_could_be_taken_for_a_field_of_its_head() {
    for name in [
        "Content-Length",
        "transfer-encoding",
        "TRANSFER_ENCODING",
        "Host",
        "X-Forwarded-For",
        "X_Forwarded_For",
        "x.forwarded-proto",
        "Forwarded",
    ] {
        let body = format!("0\r\n{name}: 1\r\n\r\n");
        assert_eq!(chunked(body.as_bytes()), Err(BadBody), "{name}");
        let mut reader = BodyReader::of_answer(Body::Chunked);
        assert_eq!(reader.advance(body.as_bytes()), Ok(body.len()), "{name}");
    }
    for name in ["X-Forwarded-For-", "X-Forwarded", "Content-Lengths", "Transfer-Encodings", "Server-Timing"] {
        let body = format!("0\r\n{name}: 1\r\n\r\n");
        assert_eq!(chunked(body.as_bytes()), Ok((body.len(), true)), "{name}");
    }
}

#[test]
fn extensions_and_trailers_have_limits() {
    let extension = |length| format!("0;{}\r\n\r\n", "a".repeat(length));
    assert!(chunked(extension(1024).as_bytes()).is_ok());
    assert_eq!(chunked(extension(1025).as_bytes()), Err(BadBody));
    for trailer in [format!("X: {}\r\n", "y".repeat(16 * 1024)), "X: yz\r\n".repeat(4096), "X".repeat(16 * 1024 + 1)] {
        assert_eq!(chunked(format!("0\r\n{trailer}").as_bytes()), Err(BadBody), "{}", &trailer[..10]);
    }
}

#[test]
fn the_largest_chunk_is_that_of_a_signed_number() {
    let mut reader = BodyReader::of_request(Body::Chunked);
    assert_eq!(reader.advance(b"7fffffffffffffff\r\nabc"), Ok(21));
    assert!(!reader.is_done());
}
