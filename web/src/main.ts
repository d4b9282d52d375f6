import { SocketConnector } from "./connect/socket";
import { baseAddress, elementOf, takeSecret } from "./root/host";
import { render } from "./root/render";
import "./root/standalone.css";

const root = elementOf("app");
root.replaceChildren(); // the frame that stood for the page while it was on its way
const base = baseAddress();
render(root, new SocketConnector(base, undefined, undefined, takeSecret(base)), { standalone: true });
