package roadbed.interop;

import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.Status;
import io.grpc.netty.shaded.io.grpc.netty.GrpcSslContexts;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.netty.handler.ssl.util.InsecureTrustManagerFactory;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.function.BiConsumer;

/** What grpc-java can be asked to do: GrpcCaller TARGET plain|tls prints the lines that grpc.js prints. */
public final class GrpcCaller {
  static final class Bytes implements MethodDescriptor.Marshaller<byte[]> {
    @Override
    public InputStream stream(byte[] value) {
      return new ByteArrayInputStream(value);
    }

    @Override
    public byte[] parse(InputStream stream) {
      try {
        return stream.readAllBytes();
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    }
  }

  /** What came of a call. */
  static final class Got extends ClientCall.Listener<byte[]> {
    final List<byte[]> messages = new ArrayList<>();
    final CompletableFuture<Got> end = new CompletableFuture<>();
    final BiConsumer<ClientCall<byte[], byte[]>, byte[]> each;
    ClientCall<byte[], byte[]> call;
    Metadata head = new Metadata();
    Metadata after;
    Status status;

    Got(BiConsumer<ClientCall<byte[], byte[]>, byte[]> each) {
      this.each = each;
    }

    @Override
    public void onHeaders(Metadata headers) {
      head = headers;
    }

    @Override
    public void onMessage(byte[] message) {
      messages.add(message);
      each.accept(call, message);
      call.request(1);
    }

    @Override
    public void onClose(Status status, Metadata trailers) {
      this.status = status;
      after = trailers;
      end.complete(this);
    }

    String text(int i) {
      return new String(messages.get(i), StandardCharsets.UTF_8);
    }

    String said() {
      return status.isOk() ? "0" : status.getCode().value() + " " + status.getDescription();
    }
  }

  static final Metadata.Key<String> SAID = Metadata.Key.of("x-said", Metadata.ASCII_STRING_MARSHALLER);
  static final Metadata.Key<byte[]> SAID_BIN = Metadata.Key.of("x-said-bin", Metadata.BINARY_BYTE_MARSHALLER);
  static final Metadata.Key<byte[]> DETAILS = Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER);

  static ManagedChannel channel;

  /** begin starts a call, which says nothing yet. */
  static Got begin(String name, MethodType type, CallOptions options, Metadata metadata, BiConsumer<ClientCall<byte[], byte[]>, byte[]> each) {
    MethodDescriptor<byte[], byte[]> method =
        MethodDescriptor.<byte[], byte[]>newBuilder().setType(type).setFullMethodName("shop.Calls/" + name).setRequestMarshaller(new Bytes()).setResponseMarshaller(new Bytes()).build();
    Got got = new Got(each);
    got.call = channel.newCall(method, options);
    got.call.start(got, metadata);
    got.call.request(2);
    return got;
  }

  static Got ask(String name, MethodType type, CallOptions options, Metadata metadata, byte[]... messages) throws Exception {
    Got got = begin(name, type, options, metadata, (call, message) -> {});
    got.call.setMessageCompression(true);
    for (byte[] m : messages) {
      got.call.sendMessage(m);
    }
    got.call.halfClose();
    return got.end.get();
  }

  static CallOptions within(long ms) {
    return CallOptions.DEFAULT.withDeadlineAfter(ms, TimeUnit.MILLISECONDS);
  }

  static Got unary(String name, byte[] message) throws Exception {
    return ask(name, MethodType.UNARY, within(60_000), new Metadata(), message);
  }

  static byte[] bytes(String s) {
    return s.getBytes(StandardCharsets.UTF_8);
  }

  static void say(Object... words) {
    StringBuilder b = new StringBuilder();
    for (Object w : words) {
      b.append(b.isEmpty() ? "" : " ").append(w);
    }
    System.out.write(bytes(b + "\n"), 0, bytes(b + "\n").length);
    System.out.flush();
  }

  static String all(Metadata m, String name) {
    Iterable<String> values = m.getAll(Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER));
    return values == null ? "none" : String.join("|", values);
  }

  static String hex(Metadata m, String name) {
    byte[] value = m.get(Metadata.Key.of(name, Metadata.BINARY_BYTE_MARSHALLER));
    return value == null ? "none" : HexFormat.of().formatHex(value);
  }

  public static void main(String[] args) throws Exception {
    NettyChannelBuilder builder = NettyChannelBuilder.forTarget("dns:///" + args[0]);
    channel =
        (args[1].equals("tls")
                ? builder.overrideAuthority("localhost").sslContext(GrpcSslContexts.forClient().trustManager(InsecureTrustManagerFactory.INSTANCE).build())
                : builder.usePlaintext())
            .build();


    Metadata asked = new Metadata();
    asked.put(SAID, "one");
    asked.put(SAID, "two");
    asked.put(SAID_BIN, new byte[] {0, 1, (byte) 254, (byte) 255});
    Got got = ask("Echo", MethodType.UNARY, within(60_000), asked, bytes("hello"));
    say("unary", got.text(0), got.said());
    say("metadata", all(got.head, "x-heard"), hex(got.head, "x-heard-bin"), all(got.after, "x-after"), hex(got.after, "x-after-bin"));
    byte[] large = bytes("a large message ".repeat(1 << 16));
    got = unary("Echo", large);
    say("large", Arrays.equals(got.messages.get(0), large), got.said());
    got = ask("Echo", MethodType.UNARY, within(60_000).withCompression("gzip"), new Metadata(), large);
    say("packed", Arrays.equals(got.messages.get(0), large), got.said());
    got = unary("Echo", new byte[0]);
    say("empty", got.messages.get(0).length, got.said());

    got = ask("Count", MethodType.SERVER_STREAMING, within(60_000), new Metadata(), bytes("100"));
    say("server streaming", got.messages.size(), got.text(99), got.said());
    byte[][] numbers = new byte[100][];
    for (int n = 1; n <= 100; n++) {
      numbers[n - 1] = bytes("" + n);
    }
    got = ask("Sum", MethodType.CLIENT_STREAMING, within(60_000), new Metadata(), numbers);
    say("client streaming", got.text(0));
    int[] n = {1};
    Got chat =
        begin(
            "Chat", MethodType.BIDI_STREAMING, within(60_000), new Metadata(),
            (call, message) -> { // each is answered before the next is said
              if (n[0]++ < 50) {
                call.sendMessage(bytes("say " + n[0]));
              } else {
                call.halfClose();
              }
            });
    chat.call.sendMessage(bytes("say 1"));
    chat.end.get();
    say("both ways", chat.messages.size(), chat.text(49), chat.said());

    got = ask("Sleep", MethodType.UNARY, within(300), new Metadata(), new byte[0]);
    say("deadline", got.status.getCode().value());
    Got one = begin("Chat", MethodType.BIDI_STREAMING, within(60_000), new Metadata(), (call, message) -> call.cancel("enough", null));
    one.call.sendMessage(bytes("say 1"));
    one.end.get();
    say("cancel", one.messages.size(), one.status.getCode().value());
    got = ask("Fail", MethodType.SERVER_STREAMING, within(60_000), new Metadata(), bytes("0"));
    say("status", got.messages.size(), got.said());
    say("details", HexFormat.of().formatHex(got.after.get(DETAILS)));
    got = ask("Fail", MethodType.SERVER_STREAMING, within(60_000), new Metadata(), bytes("3"));
    say("status after messages", got.messages.size(), got.said());
    got = unary("Nothing", new byte[0]);
    say("no such method", got.status.getCode().value());
    List<Got> many = new ArrayList<>();
    for (int i = 0; i < 50; i++) {
      Got g = begin("Echo", MethodType.UNARY, within(60_000), new Metadata(), (call, message) -> {});
      g.call.sendMessage(bytes("n" + i));
      g.call.halfClose();
      many.add(g);
    }
    int right = 0;
    for (int i = 0; i < 50; i++) {
      right += many.get(i).end.get().text(0).equals("n" + i) ? 1 : 0;
    }
    say("many at once", right);
    channel.shutdownNow();
    System.exit(0);
  }
}
