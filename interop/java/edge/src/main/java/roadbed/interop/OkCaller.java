package roadbed.interop;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import okhttp3.MediaType;
import okhttp3.OkHttpClient;
import okhttp3.Protocol;
import okhttp3.Request;
import okhttp3.RequestBody;
import okhttp3.Response;
import okhttp3.ResponseBody;
import okio.BufferedSink;

/** OkHttp: OkCaller 1|2|prior BASE does what {@link Caller} does; prior is HTTP/2 without TLS. */
public final class OkCaller {
  public static void main(String[] args) throws Exception {
    List<Protocol> protocols =
        switch (args[0]) {
          case "1" -> List.of(Protocol.HTTP_1_1);
          case "2" -> List.of(Protocol.HTTP_2, Protocol.HTTP_1_1);
          default -> List.of(Protocol.H2_PRIOR_KNOWLEDGE);
        };
    OkHttpClient client =
        new OkHttpClient.Builder()
            .protocols(protocols)
            .callTimeout(Duration.ofSeconds(20))
            .sslSocketFactory(Caller.trusting().getSocketFactory(), new Caller.Trusting())
            .hostnameVerifier((host, session) -> true)
            .build();
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line; (line = in.readLine()) != null; ) {
      String[] call = line.split("\t", -1);
      byte[] body = Base64.getDecoder().decode(call[3]);
      RequestBody sent =
          switch (call[2]) {
            case "none" -> List.of("POST", "PUT", "PATCH").contains(call[0]) ? RequestBody.create(new byte[0], null) : null;
            case "length" -> RequestBody.create(body, MediaType.get("application/octet-stream"));
            default -> new Streamed(body);
          };
      Request req = new Request.Builder().url(args[1] + call[1]).method(call[0], sent).build();
      try (Response resp = client.newCall(req).execute()) {
        Map<String, String> headers = new TreeMap<>();
        resp.headers().toMultimap().forEach((k, v) -> headers.put(k.toLowerCase(), String.join(", ", v)));
        headers.put("(version)", resp.protocol().toString());
        ResponseBody got = resp.body();
        Caller.say(resp.code(), headers, got == null ? new byte[0] : got.bytes());
      } catch (IOException e) {
        Caller.say(0, Map.of(), e.toString().getBytes(StandardCharsets.UTF_8));
      }
    }
    client.dispatcher().executorService().shutdown();
    client.connectionPool().evictAll();
    System.exit(0);
  }

  /** A body whose length is not told. */
  private static final class Streamed extends RequestBody {
    private final byte[] body;

    Streamed(byte[] body) {
      this.body = body;
    }

    @Override
    public MediaType contentType() {
      return MediaType.get("application/octet-stream");
    }

    @Override
    public void writeTo(BufferedSink sink) throws IOException {
      for (int i = 0; i < body.length; i += 10000) {
        sink.write(body, i, Math.min(10000, body.length - i));
      }
    }
  }
}
